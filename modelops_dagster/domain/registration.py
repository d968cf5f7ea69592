"""Registration is a function of the verdict: pass -> preview, hold -> shadow, fail -> no route."""

from datetime import datetime

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gateway import PREVIEW, SHADOW, Grant, Route, RouteTarget, with_targets
from modelops_dagster.domain.lanes import lane_alias
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Outcome, Verdict


class Registration(Value):
    """What the gateway was told, and what changed by it."""

    alias: str
    outcome: Outcome
    tags: tuple[str, ...] = Field(description="tags the endpoint was granted; empty when it has no route")
    endpoint: str
    commit_hash: str
    route_version: int | None = Field(description="None when the alias has no route")
    diff: tuple[str, ...] = Field(description="the change, line by line, as a person reads it")
    retired: tuple[str, ...] = Field(default=(), description="endpoints no route of this alias uses any more")


def next_route(
    route: Route | None, verdict: Verdict, endpoint: Endpoint, at: datetime, usd_per_hour: float = 0.0
) -> Route | None:
    """The route after the verdict, or None when the alias shall have none.

    A pass replaces what stood before. A hold is kept beside it under `shadow`, where nobody's request reaches it. A
    fail withdraws this endpoint and leaves the others alone.
    """
    revision = endpoint.checkpoint.revision
    others = tuple(t for t in (route.targets if route else ()) if t.endpoint != endpoint.name)
    target = passed_target(verdict, endpoint, usd_per_hour)
    targets = {"pass": (target,), "hold": (*others, target), "fail": others}[verdict.outcome]
    if not targets:
        return None
    granted_by = verdict.verdict_id if verdict.outcome == "pass" else (route.verdict_id if route else None)
    reason = f"verdict {verdict.verdict_id}: {verdict.outcome}"
    return with_targets(
        route, lane_alias(revision.repo_id, verdict.lane), targets, at=at, verdict_id=granted_by, reason=reason
    )


def passed_target(verdict: Verdict, endpoint: Endpoint, usd_per_hour: float = 0.0) -> RouteTarget:
    """The endpoint as a target of its alias, with what the verdict grants it.

    Args:
        usd_per_hour: what its hardware costs.
    """
    passed = verdict.outcome == "pass"
    return RouteTarget(
        endpoint=endpoint.name,
        url=endpoint.url,
        served_model_name=endpoint.served_model_name,
        commit_hash=endpoint.checkpoint.revision.commit_hash,
        tags=(PREVIEW if passed else SHADOW,),
        usd_per_hour=usd_per_hour,
        grant=Grant(verdict_id=verdict.verdict_id, at=verdict.decided_at) if passed else None,
    )


def retired_endpoints(before: Route | None, after: Route | None, endpoint: Endpoint) -> tuple[str, ...]:
    """Endpoints that served this alias, or were to serve it, and now do not."""
    kept = {t.endpoint for t in after.targets} if after else set()
    had = {t.endpoint for t in before.targets} if before else set()
    return tuple(sorted((had | {endpoint.name}) - kept))
