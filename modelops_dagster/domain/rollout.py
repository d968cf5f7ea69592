"""Moving an alias from one endpoint to another: canary, blue-green, shadow, and the swap in steps.

All of it is weights. Each function makes the next route of one; the version stays the one the change is based on.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import (
    SHADOW,
    CanaryWatch,
    Retiring,
    Route,
    RouteTarget,
    Swap,
    routed_targets,
    with_targets,
    with_weights,
)

PERCENT_SCALE = 100  # weights of a split: hundredths of a percent, so that several stable endpoints keep their shares


def require_grants(before: Route | None, after: Route) -> None:
    """Refuse a change by which an endpoint begins to answer calls that no verdict passed and no person answers for.

    Raises:
        InvalidSpec: names the endpoint and how to go on.
    """
    served = {(t.endpoint, t.commit_hash) for t in routed_targets(before)} if before else set()
    for target in routed_targets(after):
        if (target.endpoint, target.commit_hash) not in served and target.grant is None:
            raise InvalidSpec(
                f"no verdict passed {target.endpoint!r}, so it may not answer calls to {after.alias!r}; evaluate it "
                "first, or say why it may with --override-reason.",
                field="targets",
            )


def split(route: Route, target: RouteTarget, percent: int, *, at: datetime, reason: str) -> Route:
    """The route with `percent` of the calls at `target` and the rest, in their old proportions, at the others.

    Raises:
        InvalidSpec: nothing else serves the alias, or the percentage is none.
    """
    if not 0 <= percent <= 100:
        raise InvalidSpec(f"{percent} % is no share: give a number from 0 to 100.", field="weight")
    others = [t for t in route.targets if t.endpoint != target.endpoint]
    total = sum(t.weight for t in others if SHADOW not in t.tags)
    if percent < 100 and not total:
        raise InvalidSpec(
            f"nothing else serves {route.alias!r}, so {target.endpoint!r} cannot have a part of it; "
            "use `modelops routes set`.",
            field="endpoint",
        )
    rest = (100 - percent) * PERCENT_SCALE
    scaled = [
        t if SHADOW in t.tags else t.model_copy(update={"weight": round(rest * t.weight / total) if total else 0})
        for t in others
    ]
    new = target.model_copy(update={"weight": percent * PERCENT_SCALE, "mirror_percent": 0})
    return with_targets(route, route.alias, [*scaled, new], at=at, verdict_id=route.verdict_id, reason=reason)


def serving_tags(route: Route) -> tuple[str, ...]:
    """The tags of the endpoint with the largest share: whom a canary must answer too."""
    serving = routed_targets(route)
    return max(serving, key=lambda t: t.weight).tags if serving else ()


def start_canary(route: Route, target: RouteTarget, percent: int, bounds: Bounds, *, at: datetime) -> Route:
    """The route with the target on trial at `percent`; a trial under way goes on when only its share changes."""
    going = route.canary if route.canary and route.canary.endpoint == target.endpoint else None
    changed = split(route, target, percent, at=at, reason=f"canary {target.endpoint} at {percent} %")
    watch = going or CanaryWatch(endpoint=target.endpoint, since=at, bounds=bounds)
    return changed.model_copy(update={"canary": watch, "retiring": route.retiring})


def end_canary(route: Route, *, at: datetime, reason: str) -> Route:
    """The route without its canary: it keeps no weight, and the others have the whole again.

    Raises:
        InvalidSpec: the alias has no canary.
    """
    if route.canary is None:
        raise InvalidSpec(f"route {route.alias!r} has no canary; nothing to end.", field="alias")
    name = route.canary.endpoint
    if any(t.endpoint != name for t in routed_targets(route)):
        return with_weights(route, {name: 0}, at=at, reason=reason)
    # the last step of a swap: the old endpoints, still running, are given the whole back
    kept = {r.endpoint for r in route.retiring}
    return with_weights(
        route,
        {t.endpoint: int(t.endpoint in kept) for t in route.targets if SHADOW not in t.tags},
        at=at,
        reason=reason,
    )


def start_swap(route: Route, target: RouteTarget, swap: Swap, bounds: Bounds, *, at: datetime) -> Route:
    """The first step of a swap: the target gets the first share and is watched as a canary on every step."""
    changed = split(route, target, swap.steps[0], at=at, reason=_told(swap))
    watch = CanaryWatch(endpoint=target.endpoint, since=at, bounds=bounds)
    return changed.model_copy(update={"canary": watch, "swap": swap, "retiring": _retiring(route, changed, swap)})


def advance(route: Route, *, at: datetime) -> Route | None:
    """The next step of the swap when the present one has lasted long enough, else None.

    The last step gives everything to the new endpoint; the hold after it ends the trial and sets when the old endpoints
    are stopped.
    """
    swap, watch = route.swap, route.canary
    if swap is None or watch is None or at - swap.step_since < timedelta(seconds=swap.hold_s):
        return None
    target = next(t for t in route.targets if t.endpoint == swap.to)
    step = swap.step + 1
    if step < len(swap.steps):
        following = swap.model_copy(update={"step": step, "step_since": at})
        changed = split(route, target, swap.steps[step], at=at, reason=_told(following))
        retiring = _retiring(route, changed, following)
        return changed.model_copy(update={"canary": watch, "swap": following, "retiring": retiring})
    done = with_targets(
        route, route.alias, route.targets, at=at, verdict_id=_verdict(target), reason=f"swapped to {swap.to}"
    )
    stop_at = at + timedelta(seconds=swap.retain_s)
    return done.model_copy(
        update={"retiring": tuple(r.model_copy(update={"stop_at": stop_at}) for r in route.retiring)}
    )


def due_to_stop(route: Route, *, at: datetime) -> tuple[str, ...]:
    """Endpoints kept for a roll-back whose time is over and that serve nothing; none while a swap is under way."""
    if route.swap is not None:
        return ()
    serving = {t.endpoint for t in route.targets if t.weight}
    return tuple(r.endpoint for r in route.retiring if r.stop_at <= at and r.endpoint not in serving)


def retired(route: Route, names: Sequence[str], *, at: datetime) -> Route:
    """The route after those endpoints were stopped: they are no part of it any more."""
    left = [t for t in route.targets if t.endpoint not in names]
    changed = with_targets(
        route, route.alias, left, at=at, verdict_id=route.verdict_id, reason=f"stopped {', '.join(names)}"
    )
    waiting = tuple(r for r in route.retiring if r.endpoint not in names)
    return changed.model_copy(update={"retiring": waiting, "canary": route.canary, "swap": route.swap})


def _retiring(before: Route, after: Route, swap: Swap) -> tuple[Retiring, ...]:
    """What served before and has no weight after, kept for `retain_s` from the beginning of the step."""
    serving = {t.endpoint for t in routed_targets(before) if t.provider is None}
    left = {t.endpoint for t in after.targets if t.weight}
    stop_at = swap.step_since + timedelta(seconds=swap.retain_s)
    return tuple(Retiring(endpoint=name, stop_at=stop_at) for name in sorted(serving - left))


def _told(swap: Swap) -> str:
    return f"swap to {swap.to}: {swap.steps[swap.step]} %, step {swap.step + 1} of {len(swap.steps)}"


def _verdict(target: RouteTarget) -> str | None:
    return target.grant.verdict_id if target.grant else None
