"""What a run of the Gauntlet leaves behind."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.grader_summary import GraderSummary
from modelops_dagster.domain.gauntlet.suite import MetricSpec, SuiteKind
from modelops_dagster.domain.values import Value

OutcomeClass = Literal[
    "correct", "wrong", "refused", "truncated", "empty", "infra_error", "unscored", "ungraded", "not_offered"
]  # fmt: skip


class Metric(Value):
    """An aggregate over samples, with its interval. `value` is None when nothing could be scored."""

    name: str
    value: float | None
    ci_low: float | None = Field(default=None, description="95 % interval, lower end")
    ci_high: float | None = None
    n: int = Field(description="scored samples (or requests) behind the value")
    unit: str = Field(default="", description="'share', 'ms', 'tokens/s', …")


class Incumbent(Value):
    """What the alias serves while the candidate is judged, and where its answers to the same samples are."""

    endpoint: str
    commit_hash: str
    engine: str
    engine_version: str
    run_id: str = Field(description="of the run whose rows are its answers")
    interleaved: bool = Field(description="asked in the same run, sample by sample beside the candidate")
    asked_at: datetime = Field(description="when it was asked, UTC")

    @property
    def shown(self) -> str:
        return f"{self.endpoint}@{self.commit_hash[:12]}"


class SuiteReport(Value):
    """One suite asked of one endpoint."""

    suite: str
    suite_digest: str = Field(description="sha256 of the samples and of the suite's settings")
    instrument: str = Field(description="digest of everything that may change a score but the model")
    run_id: str
    endpoint: Endpoint
    metrics: tuple[Metric, ...]
    n_samples: int
    n_unscored: int = Field(description="samples whose machinery failed; never counted as wrong")
    failing: tuple[str, ...] = Field(
        default=(), description="failing checks with the probable serving fault, as sentences"
    )
    started_at: datetime
    ended_at: datetime
    inference_seconds: float = Field(description="wall time during which at least one request was in flight")
    adapter: dict[str, Any] = Field(
        default_factory=dict, description="what the interceptors counted: answers, cache hits, tokens, reasoning"
    )
    graders: tuple[GraderSummary, ...] = Field(default=(), description="what graders said, of both arms together")
    calibrations: tuple[Calibration, ...] = Field(
        default=(), description="of the graders whose verdicts are scores: what corrected metrics are computed with"
    )
    withdrawn: tuple[str, ...] = Field(
        default=(), description="admissions that the run withdrew, because the grader drifted, as clauses"
    )
    notes: tuple[str, ...] = Field(
        default=(),
        description="what a reader has to know of the grading, as sentences: who sat out, what counts nowhere",
    )
    samples_file: str = Field(description="Parquet file with one row per sample")
    kind: SuiteKind = Field(default="dataset", description="what the suite consists of")
    specs: tuple[MetricSpec, ...] = Field(default=(), description="the suite's own metrics, for computing them again")
    instrument_parts: str = Field(default="", description="the instrument as JSON, part by part")
    n_reserve: int = Field(default=0, description="samples that the suite keeps back, for a hold to be closed with")
    incumbent: Incumbent | None = Field(default=None, description="who answered the same samples beside it")
    incumbent_note: str = Field(default="", description="why nobody did, as a clause; empty when somebody did")

    @property
    def was_asked(self) -> bool:
        """Whether there are rows of it; a suite that only graders can judge is left out where there is none."""
        return bool(self.n_samples or self.samples_file)

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)
