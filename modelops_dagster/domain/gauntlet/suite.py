"""Suites: which samples are asked, how, and the digests that say whether two scores may be compared."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.load import Load
from modelops_dagster.domain.gauntlet.rubrics import Rubric, rubric_of
from modelops_dagster.domain.gauntlet.samples import (
    CHOICE_REQUEST,
    Expected,
    Sample,
    SampleMetadata,
    Severity,
    Split,
    digest,
    item_uid,
)
from modelops_dagster.domain.values import Value

SuiteKind = Literal["contract", "dataset", "performance"]

RUNNER_VERSION = 2
"""Raised whenever the runner asks or aggregates differently; part of every instrument digest."""


class Sampling(Value):
    """How completions are drawn."""

    temperature: float = Field(default=0, ge=0, le=2)
    top_p: float = Field(default=1, gt=0, le=1)
    max_tokens: int = Field(default=64, gt=0, description="tokens, where the sample does not say")
    token_floor: int | None = Field(
        default=None, gt=0, description="tokens every request may use at least; models that reason need the room"
    )
    seed: int | None = Field(default=1, description="sent with every request, plus the epoch")
    epochs: int = Field(default=1, ge=1, description="times each sample is asked")


class RequestLimits(Value):
    """How hard an endpoint is asked, and when we give up."""

    api: Literal["chat", "completions"] = "chat"
    stream: bool = Field(default=True, description="stream, so that time to first token is known for every sample")
    concurrency: int = Field(default=4, ge=1, le=1024, description="requests in flight, exactly")
    attempt_timeout_s: float = Field(default=60, gt=0, description="of one attempt, from send to last byte")
    retries: int = Field(default=3, ge=0, description="further attempts of one request after 429, 5xx or no connection")
    deadline_s: float = Field(default=900, gt=0, description="of the whole suite; what is left then is unscored")
    give_up_after: int = Field(default=8, ge=1, description="failed requests in a row after which the rest is unscored")


class MetricSpec(Value):
    """An aggregate of the suite's scores over the samples that match the conditions."""

    name: str
    kind: Literal["mean", "violations", "refused"] = Field(
        description="mean: of the scores; violations: share of scores below 1, exact interval; refused: share refused"
    )
    expected: Expected | None = None
    severity: Severity | None = None
    category: str | None = Field(default=None, description="prefix of the category")

    def covers(self, *, expected: str | None, severity: str | None, category: str) -> bool:
        """Whether a sample with these properties belongs to the metric."""
        return (
            (self.expected is None or expected == self.expected)
            and (self.severity is None or severity == self.severity)
            and (self.category is None or (category + "/").startswith(self.category.rstrip("/") + "/"))
        )


class ContractSettings(Value):
    """Sizes and thresholds of the contract suite."""

    panel_max_tokens: int = Field(default=64, gt=0, description="token limit of each short prompt of the panel")
    stopped_share: float = Field(default=0.75, ge=0, le=1, description="of the panel that must end by itself")
    english_share: float = Field(default=0.9, ge=0, le=1, description="of the panel that must read as English")
    clean_share: float = Field(default=0.9, ge=0, le=1, description="of the panel that must not repeat itself")
    refused_share: float = Field(default=0.1, ge=0, le=1, description="of the benign panel that may be refused")
    burst: int = Field(default=16, ge=1, description="requests sent at once")
    context_share: float = Field(
        default=0.95, gt=0, lt=1, description="of the context that a prompt must be able to fill"
    )
    max_probe_context: int = Field(default=32768, gt=0, description="tokens; longer contexts are not filled")


class Subset(Value):
    """A named choice of a suite's samples, for a policy that cannot wait for all of them."""

    splits: tuple[Split, ...] | None = Field(default=None, min_length=1, description="instead of the suite's")
    added: tuple[str, ...] = Field(default=(), description="only samples that came in with these versions; empty: all")
    categories: tuple[str, ...] = Field(default=(), description="only these categories, by prefix; empty: all")
    max_difficulty: int | None = Field(default=None, ge=1, le=5)

    def covers(self, metadata: SampleMetadata) -> bool:
        return (
            (not self.added or metadata.added in self.added)
            and (self.max_difficulty is None or (metadata.difficulty or 1) <= self.max_difficulty)
            and (
                not self.categories
                or any((metadata.category + "/").startswith(c.rstrip("/") + "/") for c in self.categories)
            )
        )


class SuiteSpec(Value):
    """The contents of `<name>.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)
    kind: SuiteKind
    title: str
    description: str = ""
    samples: str | None = Field(default=None, description="samples file beside the YAML; only for kind dataset")
    splits: tuple[Split, ...] = Field(default=("core",), min_length=1)
    limit: int | None = Field(default=None, ge=1, description="ask at most so many, drawn evenly over the categories")
    subsets: dict[str, Subset] = Field(default_factory=dict, description="named choices that a policy may ask for")
    stands_in_for: tuple[str, ...] = Field(
        default=(), description="public benchmarks in whose place this suite is asked; they are not shipped"
    )
    rubrics: Mapping[str, Rubric] = Field(
        default_factory=dict, description="what graders and people look for, by the name that samples give"
    )
    system_prompt: str | None = None
    sampling: Sampling = Sampling()
    requests: RequestLimits = RequestLimits()
    metrics: tuple[MetricSpec, ...] = ()
    contract: ContractSettings | None = None
    performance: Load | None = None

    @model_validator(mode="after")
    def _parts_fit_kind(self) -> Self:
        wanted = {"dataset": "samples", "contract": "contract", "performance": "performance"}
        for kind, part in wanted.items():
            if (getattr(self, part) is not None) != (self.kind == kind):
                verb = "needs" if self.kind == kind else "takes no"
                raise ValueError(f"a suite of kind {self.kind} {verb} {part!r}")
        if self.metrics and self.kind != "dataset":
            raise ValueError(f"a suite of kind {self.kind} takes no 'metrics'")
        return self


def items_digest(samples: Sequence[Sample]) -> str:
    """Digest of what is asked, how it is scored and how much it counts, whatever the order."""
    rows = ((s.uid, s.metadata.category, s.cluster, s.metadata.weight, s.metadata.severity) for s in samples)
    return digest(sorted(rows))


class Suite(Value):
    """A suite ready to be asked: the specification, and every sample of its file."""

    spec: SuiteSpec
    samples: tuple[Sample, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kind(self) -> SuiteKind:
        return self.spec.kind

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def description(self) -> str:
        return self.spec.description

    @property
    def digest(self) -> str:
        """`sha256:…` of the samples asked and of every setting but the texts for people."""
        return self.digest_of(self.asked())

    def asked(self, max_context: int | None = None) -> tuple[Sample, ...]:
        """The samples to ask: of the suite's splits, not retired, within `max_context` tokens, at most `limit`.

        The limited choice takes categories in turn and, inside one, the samples in the order of their uid: the order
        of the file does not matter, and a new sample displaces at most one other.
        """
        spec = self.spec
        fit = [
            s
            for s in self.samples
            if s.metadata.split in spec.splits
            and s.metadata.retired is None
            and (max_context is None or s.metadata.min_context <= max_context)
        ]
        if spec.limit is None or len(fit) <= spec.limit:
            return tuple(fit)
        turns: dict[str, int] = {}
        rank: dict[str, int] = {}
        for sample in sorted(fit, key=item_uid):
            rank[sample.id] = turns[sample.metadata.category] = turns.get(sample.metadata.category, 0) + 1
        chosen = sorted(fit, key=lambda s: (rank[s.id], s.metadata.category, s.id))[: spec.limit]
        ids = {s.id for s in chosen}
        return tuple(s for s in fit if s.id in ids)

    def asked_of(self, max_context: int | None = None) -> list[tuple[str, str]]:
        """(expected, cluster) of every sample that `asked` returns: what a comparison's power depends on."""
        return [(s.metadata.expected, s.cluster) for s in self.asked(max_context)]

    def subset(self, name: str) -> "Suite":
        """The suite with the samples of one of its subsets, under its own name.

        Raises:
            InvalidSpec: the suite has no subset of that name.
        """
        chosen = self.spec.subsets.get(name)
        if chosen is None:
            known = ", ".join(self.spec.subsets) or "none"
            raise InvalidSpec(f"The suite {self.name!r} has no subset {name!r}; it has: {known}.", field="subsets")
        spec = self.spec.model_copy(update={"splits": chosen.splits or self.spec.splits})
        return Suite(spec=spec, samples=tuple(s for s in self.samples if chosen.covers(s.metadata)))

    def digest_of(self, samples: Sequence[Sample], items: str | None = None) -> str:
        """The digest when these samples are asked; `items` is their `items_digest`, where it is known already."""
        texts = {"title", "description", "subsets", "stands_in_for"}
        if not self.spec.rubrics:
            texts.add("rubrics")  # a suite without any keeps the digest it had before there were rubrics
        return digest(
            {"suite": self.spec.model_dump(mode="json", exclude=texts), "items": items or items_digest(samples)}
        )

    @property
    def groups_to_grade(self) -> tuple[str, ...]:
        """Category groups with answers that no code can score, of the samples asked."""
        return tuple(sorted({s.metadata.group for s in self.asked() if rubric_of(s)}))

    @property
    def needs_graders(self) -> bool:
        """Whether no code can score any of the samples asked."""
        asked = self.asked()
        return bool(asked) and all(rubric_of(s) for s in asked)

    @property
    def n_reserve(self) -> int:
        """Samples that are kept back, not asked as the suite stands."""
        if "reserve" in self.spec.splits:
            return 0
        return sum(s.metadata.split == "reserve" and s.metadata.retired is None for s in self.samples)

    def instrument_parts(
        self,
        samples: Sequence[Sample],
        versions: Mapping[str, int],
        chain_shape: str | None = None,
        graders: Mapping[str, str] | None = None,
        items: str | None = None,
    ) -> dict[str, Any]:
        """Everything that may change a score but the model and the engine that serves it, by part.

        `versions` are those of the scorers or checks, `chain_shape` is what interceptors change of the answers,
        `graders` the uid of the grader whose verdicts count, by category (one that only advises changes no score), and
        `items` the samples' `items_digest`, where it is known already. The engine, its version and its variant stand
        beside the instrument in every row. Time limits and retries are left out: they decide whether a sample is
        scored, not how.
        """
        used = {s.metadata.scorer for s in samples} if self.kind == "dataset" else set(versions)
        spec, limits = self.spec, self.spec.requests
        kept = RequestLimits(api=limits.api, stream=limits.stream, concurrency=limits.concurrency)
        same = Suite(spec=spec.model_copy(update={"requests": kept}))
        return {
            "runner": RUNNER_VERSION,
            "suite": same.digest_of(samples, items),
            "dataset": digest(sorted(s.uid for s in samples)),
            "prompts": digest([spec.system_prompt, CHOICE_REQUEST]),
            "sampling": spec.sampling.model_dump(mode="json"),
            "requests": kept.model_dump(mode="json", include={"api", "stream", "concurrency"}),
            "scorers": {name: versions[name] for name in sorted(used)},
            "graders": dict(sorted((graders or {}).items())),
            **({"chain": chain_shape} if chain_shape else {}),
        }

    def instrument(
        self,
        samples: Sequence[Sample],
        versions: Mapping[str, int],
        chain_shape: str | None = None,
        graders: Mapping[str, str] | None = None,
    ) -> str:
        """Digest of the instrument's parts: two scores may be compared when it is the same."""
        return digest(self.instrument_parts(samples, versions, chain_shape, graders))
