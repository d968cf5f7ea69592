"""Looking after endpoints: which preview is dead, and which endpoint nobody holds a lease on any more.

A lease is held on an endpoint by whoever still needs it: a route that names it, a run that works on its model, a
verdict of `hold` that waits for more answers, or the person who made it. Only what a run made can be without one.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pydantic import Field

from modelops_dagster.domain.endpoints import FAILED_STATES, EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import PREVIEW, Route, with_targets
from modelops_dagster.domain.hub import COMMIT_HASH, ModelRevision
from modelops_dagster.domain.lanes import LANES, endpoint_name
from modelops_dagster.domain.values import Value


class MadeByRun(NamedTuple):
    """The lane and the model of an endpoint that a run made."""

    lane: str
    revision: ModelRevision


class UpkeepPolicy(Value):
    """How long is waited before anything is taken away."""

    dead_after_s: float = Field(default=600.0, ge=0, description="failed or gone so long: a preview is withdrawn")
    idle_after_s: float = Field(default=3600.0, ge=0, description="Running so long without a lease: stopped")
    forget_after_s: float = Field(default=7 * 86_400.0, ge=0, description="at rest so long without a lease: deleted")


def made_by_run(spec: EndpointSpec) -> MadeByRun | None:
    """The lane and model when a run made the endpoint, which its name says; None for a person's."""
    repo_id, _, commit_hash = (spec.model or "").partition("@")
    if not COMMIT_HASH.fullmatch(commit_hash):
        return None
    revision = ModelRevision(repo_id=repo_id, commit_hash=commit_hash)
    lane = next((lane.name for lane in LANES if endpoint_name(revision, lane.name) == spec.name), None)
    return MadeByRun(lane, revision) if lane else None


def named_in(routes: Iterable[Route]) -> set[str]:
    """Every endpoint that a route names, whatever for."""
    names: set[str] = set()
    for route in routes:
        names |= {t.endpoint for t in route.targets} | {r.endpoint for r in route.retiring}
        names |= {route.canary.endpoint} if route.canary else set()
        names |= {route.swap.to} if route.swap else set()
    return names


def unleased(
    status: EndpointStatus,
    *,
    in_routes: Collection[str],
    busy: Collection[str],
    on_hold: Collection[str],
    now: datetime,
    policy: UpkeepPolicy,
) -> Literal["stop", "delete"] | None:
    """What to do with an endpoint that nobody holds a lease on; None when somebody does, or it is too soon.

    Args:
        in_routes: endpoints that routes name.
        busy: models that a run works on, as repo_id.
        on_hold: endpoints whose verdict is a hold.
    """
    made = made_by_run(status.spec)
    name = status.spec.name
    if made is None or name in in_routes or made.revision.repo_id in busy or name in on_hold:
        return None
    at_rest = status.state in FAILED_STATES or status.state is EndpointState.STOPPED
    since_s = (now - status.since).total_seconds()
    if at_rest:
        return "delete" if since_s >= policy.forget_after_s else None
    return "stop" if status.desired == "Running" and since_s >= policy.idle_after_s else None


def dead_previews(
    route: Route,
    statuses: Mapping[str, EndpointStatus],
    gone_since: Mapping[str, datetime],
    now: datetime,
    policy: UpkeepPolicy,
) -> dict[str, str]:
    """Endpoints behind the alias's preview that are dead, and why, as a clause.

    What is tagged for others than previews stays: taking it out of service is a person's decision.

    Args:
        statuses: of every endpoint the controller has, by name.
        gone_since: when an endpoint was first missed at the controller, by name.
    """
    long_ago = now - timedelta(seconds=policy.dead_after_s)
    dead: dict[str, str] = {}
    for target in route.targets:
        if target.provider is not None or PREVIEW not in target.tags:
            continue
        status = statuses.get(target.endpoint)
        if status is None:
            missed = gone_since.get(target.endpoint)
            if missed is not None and missed <= long_ago:
                dead[target.endpoint] = f"is gone since {missed:%Y-%m-%d %H:%M} UTC"
        elif status.failed and status.since <= long_ago:
            dead[target.endpoint] = f"is {status.state} since {status.since:%Y-%m-%d %H:%M} UTC"
    return dead


def without_dead(route: Route, dead: Mapping[str, str], at: datetime) -> Route | None:
    """The route without them; None when nothing is left that could answer."""
    left = [t for t in route.targets if t.endpoint not in dead]
    if not any(t.weight for t in left):
        return None
    reason = "; ".join(f"{name} {why}" for name, why in dead.items())
    return with_targets(route, route.alias, left, at=at, verdict_id=route.verdict_id, reason=reason)
