"""/v1/endpoints/{name}/metrics and /health: how an endpoint did, and how it does."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from modelops_dagster.domain.access import Role
from modelops_dagster.domain.monitoring import EndpointHealth, EndpointMetrics
from modelops_dagster.domain.timespans import parse_moment
from modelops_dagster.services.controller.doorman import needs
from modelops_dagster.services.controller.monitor import Monitor
from modelops_dagster.services.controller.wishes import Ledger

_MOMENT = "how long ago (24h, 7d) or an ISO 8601 time, UTC unless it says otherwise"


def monitoring_router(ledger: Ledger, monitor: Monitor) -> APIRouter:
    """What was measured of endpoints."""
    router = APIRouter(prefix="/v1/endpoints/{name}", tags=["monitoring"])

    @router.get(
        "/metrics", **needs(Role.VIEWER, or_visitor=True), summary="Calls, latency, errors, availability and cost"
    )
    async def metrics(
        name: str,
        since: Annotated[str, Query(max_length=64, description=_MOMENT, examples=["24h"])] = "24h",
        until: Annotated[str, Query(max_length=64, description=_MOMENT, examples=["0s"])] = "0s",
    ) -> EndpointMetrics:
        """Over a time range. Without traffic a rate or a time is null and not 0."""
        now = datetime.now(UTC)
        record = ledger.get(name)
        return await monitor.metrics(record, parse_moment(since, now, "since"), parse_moment(until, now, "until"))

    @router.get("/health", **needs(Role.VIEWER), summary="Ask the engine now")
    async def health(name: str) -> EndpointHealth:
        """Whether the served model name answers at this moment, whatever the last regular look said."""
        return await monitor.health(ledger.get(name))

    return router
