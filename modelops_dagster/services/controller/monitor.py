"""How endpoints did and do: the gateway's call log first, the engines' own figures second, what was seen of them third.

The record is read on the loop's thread; what blocks (DuckDB, engines, files) runs in a thread.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import httpx

from modelops_dagster.clients.endpoint_calls import endpoint_calls
from modelops_dagster.clients.endpoints import EndpointBackend, EndpointRecord, Replica
from modelops_dagster.clients.endpoints.history import BEAT_S, History
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.exposition import EngineFigures, engine_figures
from modelops_dagster.domain.monitoring import (
    Calls,
    EndpointHealth,
    EndpointMetrics,
    Span,
    availability,
    costs,
    health_status,
    replica_hours,
)

_ASK_TIMEOUT_S = 2.0
log = logging.getLogger("modelops.controller")


class Monitor:
    """Reads; the only thing it writes is that somebody watched.

    Args:
        calls: folder of the gateway's call log.
        price_per_hour: USD for a replica whose spec names no price; 0: nobody said.
    """

    def __init__(self, history: History, backend: EndpointBackend, calls: Path, price_per_hour: float = 0.0) -> None:
        self._history = history
        self._backend = backend
        self._calls = calls
        self._price = price_per_hour or None
        # trust_env off: a proxy in the environment has no business between us and our own engine
        # and no connection is kept: one that is open means that the engine is in use, so it would never sleep
        self._http = httpx.Client(
            trust_env=False, timeout=_ASK_TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0)
        )

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Say, as long as this lasts, that somebody watches."""
        await asyncio.to_thread(self._history.begin)
        beats = asyncio.create_task(self._beat(), name="beat")
        try:
            yield
        finally:
            beats.cancel()
            self._http.close()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            try:
                await asyncio.to_thread(self._history.beat)
            except OSError as error:
                log.error("that somebody watches cannot be written: %s", error)

    async def metrics(self, record: EndpointRecord, since: datetime, until: datetime) -> EndpointMetrics:
        """How the endpoint did from `since` on, before `until`. Both UTC.

        Raises:
            InvalidSpec: the range ends before it begins.
        """
        if since >= until:
            raise InvalidSpec(f"the time range ends at {until} and begins at {since}; turn it round.", field="since")
        return await asyncio.to_thread(self._metrics, record, Span(since, until))

    def _metrics(self, record: EndpointRecord, asked: Span) -> EndpointMetrics:
        replicas = running_replicas(record)
        calls = endpoint_calls(self._calls, record.name, asked.begin, asked.end)
        # an engine of somebody else's has no such page for us, and its counters would be of everybody's calls
        engine = None if record.spec.is_external else engine_figures(self._expositions(replicas))
        source, counted_since = _source(calls, engine, replicas, asked)
        counted = engine.calls if source == "engine" and engine else calls
        stands = self._history.stands(record.name)
        watched = Span(asked.begin, min(asked.end, datetime.now(UTC)))
        share, hours = availability(stands, watched, self._history.absences())
        occupied = replica_hours(stands, watched)
        price = self._price if record.spec.usd_per_hour is None else record.spec.usd_per_hour
        cost, per_million = costs(occupied, price, counted.prompt_tokens + counted.completion_tokens)
        ready, total = replica_counts(record)
        return EndpointMetrics(
            endpoint=record.name,
            since=asked.begin,
            until=asked.end,
            source=source,
            counted_since=counted_since,
            request_count=counted.count,
            **counted.model_dump(include={name for name in Calls.model_fields if name.endswith(("_ms", "_tokens"))}),
            error_rate=counted.server_errors / counted.count if counted.count else None,
            server_error_count=counted.server_errors,
            client_error_count=counted.client_errors,
            throttled_count=counted.throttled,
            abandoned_count=counted.abandoned,
            availability=share,
            observed_hours=hours,
            ready_replicas=ready,
            total_replicas=total,
            requests_running=engine.running if engine else None,
            requests_waiting=engine.waiting if engine else None,
            kv_cache_usage=engine.kv_cache_usage if engine else None,
            replica_hours=occupied,
            price_per_hour=price,
            cost_usd=cost,
            cost_usd_per_million_tokens=per_million,
        )

    async def health(self, record: EndpointRecord) -> EndpointHealth:
        """Ask the engines now whether they answer under the served name."""
        return await asyncio.to_thread(self._health, record)

    def _health(self, record: EndpointRecord) -> EndpointHealth:
        stands = record.status()
        total = replica_counts(record)[1]
        seen = [self._backend.observe(record.spec, replica, ask=True) for replica in running_replicas(record)]
        ready = sum(o.ready is True for o in seen)
        details = [o.detail for o in seen if o.detail]
        message = f"The engine does not answer: {details[0]}." if details else stands.message
        status = health_status(stands.state, wanted=record.desired == "Running", ready=ready, total=total)
        return EndpointHealth(
            endpoint=record.name,
            status=status,
            state=stands.state,
            condition=stands.condition,
            ready_replicas=ready,
            total_replicas=total,
            last_check=datetime.now(UTC),
            message=message,
        )

    def _expositions(self, replicas: Sequence[Replica]) -> Iterator[str]:
        """What each engine says about itself; one that says nothing, or has no such page, is left out."""
        for replica in replicas:
            try:
                answer = self._http.get(f"{replica.url.removesuffix('/v1')}/metrics")
            except httpx.HTTPError as error:
                log.debug("%s/metrics: %s", replica.url, error)
                continue
            if answer.is_success:
                yield answer.text


def running_replicas(record: EndpointRecord) -> tuple[Replica, ...]:
    """The engines that may be asked."""
    running = [mine for mine in record.replicas if mine.state is EndpointState.RUNNING]
    return tuple(mine.replica for mine in running if mine.replica is not None)


def replica_counts(record: EndpointRecord) -> tuple[int, int]:
    """(engines that answer, engines that should be there or are)."""
    if record.status().state is EndpointState.SLEEPING:
        return 0, 0
    answering = len(record.urls())
    return answering, max(answering, len(record.started), record.wanted if record.desired == "Running" else 0)


def _source(
    calls: Calls, engine: EngineFigures | None, replicas: Sequence[Replica], asked: Span
) -> tuple[Literal["gateway", "engine"] | None, datetime | None]:
    if calls.count:
        return "gateway", asked.begin
    if engine is not None and engine.calls.count:
        return "engine", min(replica.launched_at for replica in replicas)
    return None, None
