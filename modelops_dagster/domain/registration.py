"""Registration is a function of the verdict: pass -> preview, hold -> shadow, fail -> no route."""

from datetime import datetime

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gateway import PREVIEW, SHADOW, Route, RouteTarget
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


def next_route(route: Route | None, verdict: Verdict, endpoint: Endpoint, at: datetime) -> Route | None:
    """The route after the verdict, or None when the alias shall have none.

    A pass replaces what stood before. A hold is kept beside it under `shadow`, where nobody's request reaches it. A
    fail withdraws this endpoint and leaves the others alone.
    """
    revision = endpoint.checkpoint.revision
    others = tuple(t for t in (route.targets if route else ()) if t.endpoint != endpoint.name)
    target = RouteTarget(
        endpoint=endpoint.name,
        url=endpoint.url,
        served_model_name=endpoint.served_model_name,
        commit_hash=revision.commit_hash,
        tags=(PREVIEW if verdict.outcome == "pass" else SHADOW,),
    )
    targets = {"pass": (target,), "hold": (*others, target), "fail": others}[verdict.outcome]
    if not targets:
        return None
    granted_by = verdict.verdict_id if verdict.outcome == "pass" else (route.verdict_id if route else None)
    return Route(
        alias=lane_alias(revision.repo_id, verdict.lane),
        version=route.version if route else 0,
        targets=targets,
        verdict_id=granted_by,
        updated_at=at,
    )


def retired_endpoints(before: Route | None, after: Route | None, endpoint: Endpoint) -> tuple[str, ...]:
    """Endpoints that served this alias, or were to serve it, and now do not."""
    kept = {t.endpoint for t in after.targets} if after else set()
    had = {t.endpoint for t in before.targets} if before else set()
    return tuple(sorted((had | {endpoint.name}) - kept))
