"""How an endpoint did over a time range: what it was asked, how it stood, and what that cost."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import Field

from modelops_dagster.domain.endpoints import FAILED_STATES, Condition, EndpointState
from modelops_dagster.domain.values import Value

HOUR = timedelta(hours=1)
HealthStatus = Literal["healthy", "degraded", "unhealthy", "starting", "sleeping", "stopped"]


class Stand(Value):
    """How an endpoint stands from `at` on, until the next one."""

    at: datetime = Field(description="UTC")
    expected: bool = Field(description="it should answer: wanted Running, and not merely being started on request")
    answering: bool = Field(description="it answers, or sleeps and is woken by a call")
    replicas: int = Field(ge=0, description="engines that occupy the hardware")


class Span(NamedTuple):
    """A time range; `end` is not part of it."""

    begin: datetime
    end: datetime

    def overlap(self, other: "Span") -> timedelta:
        """How long both last."""
        return max(timedelta(0), min(self.end, other.end) - max(self.begin, other.begin))


class Calls(Value):
    """What clients asked of one endpoint, attempts that another endpoint then answered included.

    A call is answered, or failed by the server (5xx, timeout, no connection, a stream that broke), or refused for the
    client's own fault (4xx), or turned away (429), or left by the client before its answer.
    """

    answered: int = 0
    server_errors: int = 0
    client_errors: int = 0
    throttled: int = 0
    abandoned: int = 0
    avg_latency_ms: float | None = None
    p50_latency_ms: float | None = None
    p75_latency_ms: float | None = None
    p90_latency_ms: float | None = None
    p95_latency_ms: float | None = None
    avg_ttft_ms: float | None = None
    p50_ttft_ms: float | None = None
    p95_ttft_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def latency_ms(self) -> dict[int, float | None]:
        """Percentile -> latency of answered calls."""
        return {50: self.p50_latency_ms, 75: self.p75_latency_ms, 90: self.p90_latency_ms, 95: self.p95_latency_ms}

    @property
    def count(self) -> int:
        """Every call."""
        return self.answered + self.server_errors + self.client_errors + self.throttled + self.abandoned


class EndpointMetrics(Value):
    """An endpoint over a time range. What nothing was seen of is null, and never 0."""

    endpoint: str
    since: datetime
    until: datetime
    source: Literal["gateway", "engine"] | None = Field(
        description="where the calls were counted; engine: the gateway saw none, and these are since the engine started"
    )
    counted_since: datetime | None = Field(description="from when on calls were counted")
    request_count: int
    avg_latency_ms: float | None = Field(description="of answered calls, from the request to its last byte")
    p50_latency_ms: float | None
    p75_latency_ms: float | None
    p90_latency_ms: float | None
    p95_latency_ms: float | None
    avg_ttft_ms: float | None = Field(description="time to the first token of streamed calls")
    p50_ttft_ms: float | None
    p95_ttft_ms: float | None
    error_rate: float | None = Field(description="0 to 1: calls the server failed, of all; clients' faults are apart")
    server_error_count: int
    client_error_count: int = Field(description="4xx but 429")
    throttled_count: int = Field(description="429")
    abandoned_count: int = Field(description="the client left before the answer")
    prompt_tokens: int
    completion_tokens: int
    availability: float | None = Field(description="0 to 1: share of the time it should answer in which it did")
    observed_hours: float = Field(description="how long it should have answered while the controller watched")
    ready_replicas: int
    total_replicas: int
    requests_running: float | None = Field(description="in the engine, now")
    requests_waiting: float | None = Field(description="in the engine's queue, now")
    kv_cache_usage: float | None = Field(description="0 to 1, now")
    replica_hours: float = Field(description="hours that its engines occupied the hardware, added up over replicas")
    price_per_hour: float | None = Field(description="USD for one replica; null: nobody said")
    cost_usd: float | None = Field(description="replica_hours times the price")
    cost_usd_per_million_tokens: float | None = Field(description="the cost over all tokens, read and written")


class EndpointHealth(Value):
    """What asking the engine just now showed."""

    endpoint: str
    status: HealthStatus
    state: EndpointState
    condition: Condition | None
    ready_replicas: int
    total_replicas: int
    last_check: datetime = Field(description="UTC")
    message: str = Field(description="one sentence a person can act on; empty when all is well")


def expected(*, wanted: bool, state: EndpointState, ever_ready: bool) -> bool:
    """Whether an endpoint should answer: a start that somebody asked for is not an outage, one after a crash is."""
    return wanted and (ever_ready or state in FAILED_STATES)


def answering(state: EndpointState, condition: Condition | None) -> bool:
    """Whether a call would be answered, be it after waking the engine."""
    return state is EndpointState.SLEEPING or (state is EndpointState.RUNNING and condition != "Unreachable")


def availability(stands: Sequence[Stand], range_: Span, absences: Sequence[Span]) -> tuple[float | None, float]:
    """The share of the time it should answer in which it did, and how many hours that time is.

    Args:
        stands: in order.
        absences: when nobody watched; that time is counted neither way.

    Returns:
        (0 to 1, hours); None when there is no such time.
    """
    due = up = timedelta(0)
    for stand, span in _spans(stands, range_):
        seen = span.end - span.begin - sum((span.overlap(gap) for gap in absences), timedelta(0))
        if stand.expected:
            due += seen
            up += seen if stand.answering else timedelta(0)
    return (up / due if due else None), round(due / HOUR, 6)


def replica_hours(stands: Sequence[Stand], range_: Span) -> float:
    """Hours that engines occupied the hardware; they do whether the controller watches or not."""
    return round(sum(stand.replicas * ((span.end - span.begin) / HOUR) for stand, span in _spans(stands, range_)), 6)


def _spans(stands: Sequence[Stand], range_: Span) -> Iterator[tuple[Stand, Span]]:
    ends = [*(s.at for s in stands[1:]), range_.end]
    for stand, end in zip(stands, ends, strict=False):
        clipped = Span(max(stand.at, range_.begin), min(end, range_.end))
        if clipped.begin < clipped.end:
            yield stand, clipped


def costs(hours: float, price_per_hour: float | None, tokens: int) -> tuple[float | None, float | None]:
    """(USD, USD per million tokens); None for what is not known."""
    if price_per_hour is None:
        return None, None
    cost = hours * price_per_hour
    return round(cost, 6), round(cost / tokens * 1e6, 6) if tokens else None


def health_status(state: EndpointState, *, wanted: bool, ready: int, total: int) -> HealthStatus:
    """One word for how an endpoint stands."""
    if state is EndpointState.SLEEPING:
        return "sleeping"
    if state in FAILED_STATES:
        return "unhealthy"
    if not wanted:
        return "stopped"
    if state is EndpointState.RUNNING:
        if not ready:
            return "unhealthy"
        return "healthy" if ready >= total else "degraded"
    return "starting"
