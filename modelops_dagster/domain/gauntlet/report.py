"""What a run of the Gauntlet leaves behind."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.values import Value

OutcomeClass = Literal["correct", "wrong", "refused", "truncated", "empty", "infra_error", "unscored", "not_offered"]


class Metric(Value):
    """An aggregate over samples, with its interval. `value` is None when nothing could be scored."""

    name: str
    value: float | None
    ci_low: float | None = Field(default=None, description="95 % interval, lower end")
    ci_high: float | None = None
    n: int = Field(description="scored samples (or requests) behind the value")
    unit: str = Field(default="", description="'share', 'ms', 'tokens/s', …")


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
    samples_file: str = Field(description="Parquet file with one row per sample")

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)
