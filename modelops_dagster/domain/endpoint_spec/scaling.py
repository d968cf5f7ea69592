"""How many replicas, when they come and go, and who yields when accelerators are scarce."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator, model_validator

from modelops_dagster.domain.values import Value

AutoscaleMetric = Literal["cpu", "gpu", "ram", "gram", "latency", "throughput", "concurrency", "queue_length"]
PERCENT_METRICS = frozenset({"cpu", "gpu", "ram", "gram"})
DEFAULT_COOLDOWN_S = 300


class Priority(StrEnum):
    """Who yields when accelerators are scarce: research before preview; production never does."""

    PRODUCTION = "production"
    PREVIEW = "preview"
    RESEARCH = "research"


class AutoscaleTarget(Value):
    """One figure to keep, per replica."""

    metric: AutoscaleMetric
    target: float = Field(
        gt=0, allow_inf_nan=False, description="percent (cpu, gpu, ram, gram), ms (latency), requests/s or requests"
    )
    percentile: Literal[50, 75, 90, 95] | None = Field(default=None, description="of latency")

    @model_validator(mode="after")
    def _holds(self) -> "AutoscaleTarget":
        if self.percentile is not None and self.metric != "latency":
            raise ValueError(f"percentile is of latency, and {self.metric} has none; leave it out")
        if self.metric in PERCENT_METRICS and self.target > 100:
            raise ValueError(f"target is a percentage of {self.metric} and cannot be above 100, as {self.target:g} is")
        return self


class AutoscaleConfig(Value):
    """When replicas come and go."""

    targets: tuple[AutoscaleTarget, ...] = Field(min_length=1)
    cooldown_period: int = Field(
        default=DEFAULT_COOLDOWN_S, ge=1, description="seconds without a request before it sleeps"
    )

    @field_validator("targets")
    @classmethod
    def _once(cls, value: Sequence[AutoscaleTarget]) -> Sequence[AutoscaleTarget]:
        named = [(t.metric, t.percentile) for t in value]
        twice = next((metric for metric, percentile in named if named.count((metric, percentile)) > 1), None)
        if twice:
            raise ValueError(f"{twice} is named twice; give each metric one target")
        return value
