"""Recovery: how much of the original a quantized checkpoint kept, and whether an endpoint is spent on it."""

import math
from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.policies import Name, content_hash
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

RecoveryOutcome = Literal["pass", "warn", "block"]


class Bar(Value):
    """Two limits of one figure. Which way is worse depends on the figure."""

    warn: float
    block: float


class RecoveryRule(Value):
    """The bars of some schemes from a size on."""

    schemes: tuple[Scheme, ...] = Field(min_length=1)
    min_parameters_billion: float = Field(default=0, ge=0)
    perplexity_ratio: Bar = Field(description="perplexity of the candidate / of the original; larger is worse")
    mean_kl: Bar = Field(description="nats per token; larger is worse")
    top1_agreement: Bar = Field(description="share of tokens with the same most likely one; smaller is worse")

    @model_validator(mode="after")
    def _ordered(self) -> "RecoveryRule":
        if not (
            self.perplexity_ratio.warn <= self.perplexity_ratio.block
            and self.mean_kl.warn <= self.mean_kl.block
            and self.top1_agreement.warn >= self.top1_agreement.block
        ):
            raise ValueError("block has to lie beyond warn")
        return self


class RecoveryPolicy(Value):
    """`quantization/recovery/<name>.yaml`."""

    name: Name = Field(description="same as the file's name")
    version: int = Field(ge=1)
    description: str = Field(min_length=1)
    texts: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.jsonl$", description="held-out, beside the recipes")
    window_tokens: int = Field(default=256, ge=16, le=8192)
    max_windows: int = Field(default=16, ge=1, description="windows compared at most; each costs three forward passes")
    min_tokens: int = Field(default=2000, ge=1, description="fewer than these make every result a warning")
    rules: tuple[RecoveryRule, ...] = Field(default=(), description="none: only what is broken is stopped")

    @property
    def digest(self) -> str:
        return f"sha256:{content_hash(self.model_dump(mode='json'))}"

    def rule(self, scheme: Scheme, parameters: int) -> RecoveryRule | None:
        """The rule of this scheme with the highest size that the model reaches."""
        fits = [r for r in self.rules if scheme in r.schemes and parameters >= r.min_parameters_billion * 1e9]
        return max(fits, key=lambda r: r.min_parameters_billion, default=None)


class Figures(Value):
    """One model against the original, over the same held-out tokens. Formulas: `workers/quantize/comparing.py`."""

    perplexity_original: float
    perplexity: float
    perplexity_ratio: float
    perplexity_ratio_low: float = Field(description="lower end of the 95 % interval over windows")
    perplexity_ratio_high: float
    mean_kl: float = Field(description="nats per token")
    kl_p99: float = Field(description="nats, 99th percentile over tokens")
    top1_agreement: float = Field(description="share of tokens")


class Findings(Value):
    """What the comparison found. It does not know the bars."""

    problems: tuple[str, ...] = Field(description="what is broken, one sentence each; none for a sound checkpoint")
    loads: bool | None = Field(description="in Transformers; None when it was not tried")
    unmeasured: str = Field(default="", description="why there are no figures")
    measured: Figures | None = None
    noise: Figures | None = Field(default=None, description="the original in FP32 against itself: the noise floor")
    n_tokens: int
    n_windows: int
    dtypes: dict[str, int] = Field(description="stored type -> tensors")
    size_ratio: float = Field(description="bytes of the weights / bytes of the original's")
    parameters: int


class RecoveryCriterion(Value):
    """One figure and its bars."""

    figure: str
    value: float
    noise: float
    warn: float
    block: float
    outcome: RecoveryOutcome


class Recovery(Value):
    """The judgement on one quantized checkpoint, with every number it rests on."""

    revision: ModelRevision
    lane: str
    scheme: Scheme
    digest: str = Field(description="manifest digest of the quantized checkpoint")
    source_digest: str
    outcome: RecoveryOutcome
    reason: str
    criteria: tuple[RecoveryCriterion, ...]
    findings: Findings
    policy: str
    policy_digest: str
    texts_digest: str
    judged_at: datetime = Field(description="UTC")
    seconds: float

    @property
    def share_kept(self) -> float | None:
        """Perplexity of the original over that of the candidate: 0.99 is the customary "99 % recovery"."""
        measured = self.findings.measured
        return None if measured is None else 1 / measured.perplexity_ratio


def judge_recovery(
    policy: RecoveryPolicy, findings: Findings, scheme: Scheme
) -> tuple[RecoveryOutcome, str, tuple[RecoveryCriterion, ...]]:
    """Compare the findings with the bars.

    Returns:
        The outcome, the sentence that says why, and every criterion.
    """
    if findings.problems:
        return "block", "; ".join(findings.problems), ()
    if findings.measured is None or findings.noise is None:
        return "warn", f"not measured: {findings.unmeasured or 'no figures'}", ()
    rule = policy.rule(scheme, findings.parameters)
    if rule is None:
        broken = _not_a_number(findings.measured)
        return ("block", f"{broken} is not a number", ()) if broken else ("pass", f"no bars for {scheme}", ())
    criteria = tuple(_criterion(name, rule, findings) for name in ("perplexity_ratio", "mean_kl", "top1_agreement"))
    worst: RecoveryOutcome = max((c.outcome for c in criteria), key=("pass", "warn", "block").index)
    few = findings.n_tokens < policy.min_tokens
    said = [_said(c) for c in criteria if c.outcome != "pass"]
    if few:
        said.append(f"only {findings.n_tokens} tokens were compared, and {policy.min_tokens} are asked for")
        worst = "warn" if worst == "pass" else worst
    kept = f"{100 / findings.measured.perplexity_ratio:.1f} % of the perplexity was kept"
    return worst, f"{kept}; {'; '.join(said)}" if said else kept, criteria


def _criterion(name: str, rule: RecoveryRule, findings: Findings) -> RecoveryCriterion:
    bar: Bar = getattr(rule, name)
    value, noise = float(getattr(findings.measured, name)), float(getattr(findings.noise, name))
    falls = name == "top1_agreement"  # of this figure smaller is worse
    beyond_block = value < bar.block if falls else value > bar.block
    beyond_warn = value < bar.warn if falls else value > bar.warn
    outcome: RecoveryOutcome = "block" if beyond_block or math.isnan(value) else "warn" if beyond_warn else "pass"
    return RecoveryCriterion(figure=name, value=value, noise=noise, warn=bar.warn, block=bar.block, outcome=outcome)


def _said(criterion: RecoveryCriterion) -> str:
    bar = criterion.block if criterion.outcome == "block" else criterion.warn
    return f"{criterion.figure} {criterion.value:.3f} is beyond {bar:g}"


def _not_a_number(figures: Figures) -> str | None:
    return next((name for name, value in figures.model_dump().items() if not math.isfinite(value)), None)
