"""Registration is a function of the verdict: pass -> preview, hold -> shadow, fail -> no route."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gateway import PREVIEW, SHADOW, Grant, Route, RouteTarget, routed_targets, with_targets
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import RAW, endpoint_name, lane_alias
from modelops_dagster.domain.policies import SwapRule
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Outcome, PairedResult, Verdict


class SwapRecord(Value):
    """What a quantized copy's verdict did with the alias of the released weights."""

    alias: str
    how: Literal["canary", "recreate", "none"]
    reason: str = Field(description="what was begun, or why nothing was, as a clause")
    route_version: int | None = Field(description="of the alias's route now; None when it has none")
    diff: tuple[str, ...] = Field(default=(), description="the change, line by line; empty when nothing changed")


class Registration(Value):
    """What the gateway was told, and what changed by it."""

    alias: str
    outcome: Outcome
    tags: tuple[str, ...] = Field(description="tags the endpoint was granted; empty when it has no route")
    endpoint: str
    commit_hash: str
    route_version: int | None = Field(description="None when the alias has no route")
    diff: tuple[str, ...] = Field(description="the change, line by line, as a person reads it")
    retired: tuple[str, ...] = Field(default=(), description="endpoints that no route uses any more")
    swap: SwapRecord | None = Field(default=None, description="None for the lane of the released weights")


def next_route(
    route: Route | None, verdict: Verdict, endpoint: Endpoint, at: datetime, usd_per_hour: float = 0.0
) -> Route | None:
    """The route after the verdict, or None when the alias shall have none.

    A pass replaces what stood before, unless it was applied already or what stands was granted by a later verdict on
    the same revision: then only the endpoint's address follows. A hold is kept beside it under `shadow`, where nobody's
    request reaches it. A fail withdraws this endpoint and leaves the others alone.
    """
    revision = endpoint.checkpoint.revision
    others = tuple(t for t in (route.targets if route else ()) if t.endpoint != endpoint.name)
    target = passed_target(verdict, endpoint, usd_per_hour)
    if route is not None and verdict.outcome == "pass" and _stands(route, target):
        return readdressed(route, target, at=at)
    targets = {"pass": (target,), "hold": (*others, target), "fail": others}[verdict.outcome]
    if not targets:
        return None
    granted_by = verdict.verdict_id if verdict.outcome == "pass" else (route.verdict_id if route else None)
    reason = f"verdict {verdict.verdict_id}: {verdict.outcome}"
    made = with_targets(
        route, lane_alias(revision.repo_id, verdict.lane), targets, at=at, verdict_id=granted_by, reason=reason
    )
    if route is None or routed_targets(route) != routed_targets(made):
        return made
    return made.model_copy(update={"canary": route.canary, "swap": route.swap, "retiring": route.retiring})


def readdressed(route: Route, target: RouteTarget, *, at: datetime) -> Route:
    """The route with the address, the grant and the price of one target brought up to date, and nothing else."""
    now = {name: getattr(target, name) for name in ("url", "served_model_name", "usd_per_hour", "grant")}
    targets = tuple(t.model_copy(update=now) if t.endpoint == target.endpoint else t for t in route.targets)
    if targets == route.targets:
        return route
    reason = f"{target.endpoint} judged again, or moved"
    return route.model_copy(update={"targets": targets, "reason": reason, "updated_at": at})


def _stands(route: Route, target: RouteTarget) -> bool:
    """Whether the route holds this grant already, or one of a later verdict on the same revision."""
    if any((t.endpoint, t.grant) == (target.endpoint, target.grant) for t in route.targets):
        return True
    later = [t.grant.at for t in routed_targets(route) if t.commit_hash == target.commit_hash and t.grant is not None]
    return target.grant is not None and max(later, default=target.grant.at) > target.grant.at


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


def why_no_swap(verdict: Verdict, route: Route | None, rule: SwapRule) -> str:
    """Why the alias of the released weights stays with them, as a clause; empty when the copy may take it over.

    It may when the policy says so and the copy was compared, side by side or with stored answers, with the endpoint of
    the same revision's released weights, which the alias still serves. Being no worse than another copy is not enough:
    small losses, each negligible, would add up.
    """
    raw = endpoint_name(ModelRevision(repo_id=verdict.repo_id, commit_hash=verdict.commit_hash), RAW.name)
    serving = [t.endpoint for t in routed_targets(route)] if route else []
    own = next((t for t in route.targets if t.endpoint == verdict.endpoint), None) if route else None
    if rule.how == "none":
        return f"policy {verdict.policy} swaps nothing"
    if verdict.outcome != "pass":
        return f"the verdict is {verdict.outcome}"
    if own is not None and own.weight:
        return f"{verdict.endpoint} answers under the alias already"
    if route is not None and route.swap is not None:
        return f"a swap to {route.swap.to} is under way"
    if route is not None and own is not None and own.grant and own.grant.verdict_id == verdict.verdict_id:
        return f"it was tried by this verdict before ({route.reason})"
    if raw not in serving:
        return f"the alias is not served by the released weights of this revision but by {', '.join(serving) or 'none'}"
    compared = [r for r in verdict.comparisons if r.incumbent.endpoint == raw and _is_primary(verdict, r)]
    if not compared:
        return f"it was not compared with the released weights ({verdict.incumbent_note or 'with another endpoint'})"
    if any(r.low is None or r.low <= -r.margin for r in compared):
        return "it is not known to be no worse than the released weights"
    return ""


def withdrawn(route: Route, endpoint: str, *, at: datetime, reason: str) -> Route | None:
    """The route without an endpoint that no verdict passes any more; what it displaced answers again, if it is there.

    None when nothing is left to answer.
    """
    left = [t for t in route.targets if t.endpoint != endpoint]
    if not any(t.weight and SHADOW not in t.tags for t in left):
        left = [t if SHADOW in t.tags else t.model_copy(update={"weight": 1}) for t in left]
    if not any(t.weight and SHADOW not in t.tags for t in left):
        return None
    return with_targets(route, route.alias, left, at=at, verdict_id=route.verdict_id, reason=reason)


def _is_primary(verdict: Verdict, result: PairedResult) -> bool:
    primary = verdict.policy_document.primary if verdict.policy_document else None
    return primary is None or (primary.suite, primary.metric) == (result.suite, result.metric)
