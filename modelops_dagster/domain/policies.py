"""A promotion policy: the bars an endpoint has to clear before developers may call it."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from modelops_dagster.domain.gateway import Steps
from modelops_dagster.domain.gauntlet.samples import Expected
from modelops_dagster.domain.values import Value

Tier = Literal["required", "advisory"]
Bound = Literal["value", "ci_low", "ci_high"]
When = Literal["always", "no_incumbent"]
Measure = Literal["score", "not_refused"]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9_-]*$", max_length=80)]
MetricName = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_.@/-]*$", max_length=120)]
BOUND_WORDS: Mapping[Bound, str] = {"value": "", "ci_low": "lower bound ", "ci_high": "upper bound "}


class Rule(Value):
    """A bar one metric has to clear: a floor (`min`) or a ceiling (`max`), and which end of the interval clears it."""

    suite: Name = Field(description="name of the suite that reports the metric")
    metric: MetricName = Field(description="name of the metric as the suite reports it")
    tier: Tier = Field(default="required", description="advisory criteria are shown and never change the outcome")
    min: Number | None = Field(default=None, description="floor, in the metric's unit")
    max: Number | None = Field(default=None, description="ceiling, in the metric's unit")
    bound: Bound = Field(
        default="value",
        description="what is compared: the value, or an end of its 95 % interval. With ci_low of a floor and ci_high "
        "of a ceiling the whole interval has to clear the bar, and an interval across it is a hold",
    )
    when: When = Field(
        default="always",
        description="no_incumbent: it decides only where there is no incumbent to compare with, and is shown otherwise",
    )

    @model_validator(mode="after")
    def _one_bar(self) -> "Rule":
        if (self.min is None) == (self.max is None):
            raise ValueError(f"{self.suite}.{self.metric} needs exactly one of min and max")
        return self

    @property
    def bar(self) -> float:
        bar = self.max if self.min is None else self.min
        assert bar is not None  # noqa: S101 - the validator saw to it
        return bar

    @property
    def is_floor(self) -> bool:
        return self.min is not None

    @property
    def text(self) -> str:
        return f"{BOUND_WORDS[self.bound]}{'>=' if self.is_floor else '<='} {shown(self.bar)}"


class MarginRule(Value):
    """How much worse than the incumbent a candidate may be on a suite that both answer on the same instrument."""

    suite: Name = Field(description="a dataset suite; the samples are paired one by one")
    measure: Measure = Field(
        default="score",
        description="score: of each sample; not_refused: 1 when the sample was answered, 0 when refused",
    )
    expected: Expected | None = Field(default=None, description="only samples of this expectation; without it, all")
    margin: Number = Field(gt=0, lt=1, description="largest loss that still counts as none, in the unit of the scores")
    tier: Literal["primary", "advisory"] = Field(
        default="primary", description="one rule is primary and decides; requiring several would fail equal models"
    )
    strict: bool = Field(
        default=False, description="only a loss that is certainly beyond the margin fails, not any significant one"
    )
    discordance: Number = Field(
        default=0.10, gt=0, le=1, description="share of samples in which two equal models are expected to differ"
    )
    icc: Number = Field(default=0.10, ge=0, le=1, description="correlation of the differences inside a cluster")
    confidence: Number = Field(default=0.95, gt=0.5, lt=1, description="of each one-sided bound")
    power: Number = Field(default=0.80, gt=0, lt=1, description="chance an equal model must have of a pass")

    @property
    def metric(self) -> str:
        """The name of its line in a decision, e.g. `score_vs_incumbent`."""
        return f"{self.measure}{'/' + self.expected if self.expected else ''}_vs_incumbent"

    @property
    def text(self) -> str:
        return f"one-sided lower bound > {shown(-self.margin)}"


class Waiver(Value):
    """Excuses a measured violation of one criterion until a day, with a reason. Missing numbers are never excused."""

    suite: Name
    metric: MetricName
    reason: str = Field(min_length=10, max_length=300, description="why the violation is acceptable, for a reviewer")
    expires: date = Field(description="last day it holds, YYYY-MM-DD, UTC")


class SwapRule(Value):
    """What a quantized copy's pass does with the alias that the released weights serve."""

    how: Literal["canary", "recreate", "none"] = Field(
        default="none",
        description="canary: it takes the alias over step by step, watched, and the released weights' endpoint is "
        "stopped later; recreate: at once, and that endpoint is stopped now, where the hardware does not hold both; "
        "none: the alias stays, and the copy answers under a name of its own only",
    )
    steps: Steps = Field(default=(5, 50, 100), description="shares it gets, in percent; of a canary")
    hold_s: Number = Field(default=900.0, ge=0, description="how long each step lasts, in seconds; of a canary")
    retain_s: Number = Field(
        default=86_400.0, ge=0, description="how long the old endpoint runs on afterwards, in seconds; of a canary"
    )


class Policy(Value):
    """What an endpoint must show before developers may call it: `eval_datasets/policies/<name>.yaml`."""

    name: Name = Field(description="same as the file's name")
    version: int = Field(ge=1, description="raise it with every change; the digest tells versions apart anyway")
    description: str = Field(min_length=1, description="for whom the bars are meant")
    required_suites: tuple[Name, ...] = Field(
        default=(), description="suites that must have run, whatever they measure"
    )
    max_unscored_share: Number = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="largest share of a suite's samples whose machinery may fail; more is a hold",
    )
    subsets: dict[Name, Name] = Field(
        default_factory=dict,
        description="suite -> its subset to ask, where the whole would take too long; what is not named is asked whole",
    )
    criteria: tuple[Rule, ...] = Field(min_length=1)
    against_incumbent: tuple[MarginRule, ...] = Field(
        default=(), description="comparisons with what the alias serves now; exactly one of them is primary"
    )
    history_days: int = Field(
        default=7,
        ge=0,
        description="how old the incumbent's stored samples may be when it cannot be asked again; 0: never use them",
    )
    swap: SwapRule = Field(
        default_factory=SwapRule, description="of a quantized copy that passed and is no worse than what was released"
    )
    waivers: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _holds_together(self) -> "Policy":
        required = {(r.suite, r.metric) for r in self.criteria if r.tier == "required"}
        if not required:
            raise ValueError("no criterion is required, so everything would pass; make at least one tier: required")
        seen: set[tuple[str, str, str, bool]] = set()
        for rule in self.criteria:
            key = (rule.suite, rule.metric, rule.tier, rule.is_floor)
            if key in seen:
                raise ValueError(f"{rule.suite}.{rule.metric} has two {'floors' if rule.is_floor else 'ceilings'}")
            seen.add(key)
        self._check_margins()
        for waiver in self.waivers:
            if (waiver.suite, waiver.metric) not in required:
                raise ValueError(f"the waiver for {waiver.suite}.{waiver.metric} names no required criterion")
        if len({(w.suite, w.metric) for w in self.waivers}) < len(self.waivers):
            raise ValueError("a criterion has two waivers; keep one")
        return self

    def _check_margins(self) -> None:
        rules = self.against_incumbent
        if rules and sum(r.tier == "primary" for r in rules) != 1:
            raise ValueError("against_incumbent needs exactly one rule of tier primary; make the others advisory")
        if len({(r.suite, r.metric) for r in rules}) < len(rules):
            raise ValueError("against_incumbent holds one comparison twice; keep one")
        floors = {r.suite for r in self.criteria if r.tier == "required"}
        lacking = next((r.suite for r in rules if r.tier == "primary" and r.suite not in floors), None)
        if lacking:
            raise ValueError(
                f"suite {lacking} has no required criterion for a model without an incumbent; add one with "
                "when: no_incumbent"
            )

    @property
    def primary(self) -> MarginRule | None:
        """The comparison that decides, if the policy makes one."""
        return next((r for r in self.against_incumbent if r.tier == "primary"), None)

    @property
    def compared_suites(self) -> frozenset[str]:
        """Suites that the incumbent has to answer as well."""
        return frozenset(r.suite for r in self.against_incumbent)

    @property
    def must_run(self) -> tuple[str, ...]:
        """Every suite a pass depends on, in the order of the policy."""
        return tuple(dict.fromkeys((*self.required_suites, *(r.suite for r in self.criteria if r.tier == "required"))))

    @property
    def named_suites(self) -> frozenset[str]:
        """Every suite the policy says anything about."""
        return self.compared_suites | {*self.required_suites, *(r.suite for r in self.criteria)}

    def waiver(self, rule: Rule) -> Waiver | None:
        return next((w for w in self.waivers if (w.suite, w.metric) == (rule.suite, rule.metric)), None)


def policy_digest(policy: Policy) -> str:
    """`sha256:…` of what decides, the same whatever order its file writes the keys in.

    What follows a pass (`swap`) changes no decision and is left out.
    """
    return f"sha256:{content_hash(policy.model_dump(mode='json', exclude={'swap'}))}"


def policy_schema() -> dict[str, Any]:
    """JSON schema of a policy file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Policy.model_json_schema(),
        "title": "Promotion policy",
    }


def content_hash(document: object) -> str:
    """sha256 of a JSON document with sorted keys, 64 hex digits."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def shown(number: float, beside: float | None = None) -> str:
    """A number for people, with as many decimals as it takes to differ from the number it stands beside."""
    size = max(abs(number), abs(beside or 0))
    for decimals in range(0 if size >= 100 else 1 if size >= 10 else 2, 10):
        text = f"{number:.{decimals}f}"
        if beside is None or number == beside or text != f"{beside:.{decimals}f}":
            return text
    return repr(number)
