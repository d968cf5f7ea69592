"""How many replicas the traffic asks for.

The rule is the Kubernetes Horizontal Pod Autoscaler's, so a spec means the same on a cluster: a replica too many or too
few for each target, with a tolerance of a tenth, and going down only to what was needed at any time in the last while.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from pydantic import Field

from modelops_dagster.domain.endpoints import AutoscaleTarget
from modelops_dagster.domain.values import Value

TOLERANCE = 0.1


class Load(Value):
    """What an endpoint had to do lately, all its replicas together."""

    concurrency: float = Field(ge=0, description="calls under way, on average")
    throughput: float = Field(default=0.0, ge=0, description="calls answered a second")
    latency_ms: Mapping[int | None, float | None] = Field(
        default_factory=dict, description="percentile -> time to the last byte; None: the mean"
    )
    cpu: float | None = Field(default=None, ge=0, description="percent of what a replica is promised, their mean")
    ram: float | None = Field(default=None, ge=0, description="percent of what a replica is promised, their mean")


def replicas_for(load: Load, targets: Iterable[AutoscaleTarget], current: int, fewest: int, most: int) -> int:
    """The most that any target asks for, within the bounds; `current`, those that answer, where none is followed.

    For concurrency and throughput, which replicas share, it is ceil(total / target); for latency, cpu and ram
    ceil(current x value / target), as the HPA has it. A ratio within a tenth of 1 changes nothing.
    """
    asked = [n for target in targets if (n := _asked_by(target, load, current)) is not None]
    return max(fewest, min(most, max(asked, default=current)))


def _asked_by(target: AutoscaleTarget, load: Load, current: int) -> int | None:
    if target.metric == "concurrency":
        ratio = load.concurrency / target.target / current
    elif target.metric == "throughput":
        ratio = load.throughput / target.target / current
    elif target.metric == "latency":
        latency_ms = load.latency_ms.get(target.percentile)
        if latency_ms is None:  # nobody asked: that is no reason to keep replicas
            return 0
        ratio = latency_ms / target.target
    else:
        used = {"cpu": load.cpu, "ram": load.ram}.get(target.metric)
        if used is None:
            return None
        ratio = used / target.target
    return current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio)


class Recommendations:
    """What was asked for lately. Going up is done at once, going down to the most of the last `hold`."""

    def __init__(self, hold: timedelta) -> None:
        self._hold = hold
        self._asked: list[tuple[datetime, int]] = []

    def add(self, now: datetime, replicas: int) -> int:
        """Take one in; how many there should be now."""
        self._asked = [(at, n) for at, n in self._asked if now - at < self._hold]
        self._asked.append((now, replicas))
        return max(n for _, n in self._asked)
