"""Day 2: what a quantized copy's verdict does with the alias that the released weights serve."""

from collections.abc import Callable
from datetime import datetime

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.rollout import VISIBLE_TIMEOUT_S, Endpoints, Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gateway import Route, Swap
from modelops_dagster.domain.policies import SwapRule
from modelops_dagster.domain.registration import SwapRecord, passed_target, readdressed, why_no_swap, withdrawn
from modelops_dagster.domain.rollout import serving_tags, start_swap
from modelops_dagster.domain.route_changes import route_diff
from modelops_dagster.domain.verdicts import Verdict


def apply_swap(
    routes: RouteStore,
    gateway: GatewayClient,
    endpoints: Callable[[], Endpoints],
    *,
    endpoint: Endpoint,
    verdict: Verdict,
    at: datetime,
    usd_per_hour: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
) -> SwapRecord:
    """Let the copy take the repository's alias over, when its verdict and the policy it was judged by say so.

    A canary is only begun here: the gateway moves the weights on, takes them back when the copy is worse, and stops
    the released weights' endpoint when the policy's time is over. Applying a verdict again changes nothing, whatever
    step the swap is at. A copy that answers under the alias and does not pass any more is taken out of it.

    Args:
        endpoints: opens the controller's client; only asked by `recreate`.
        at: now.
        usd_per_hour: what the endpoint's hardware costs.
        say: told what is being done while it takes time.

    Raises:
        Conflict: the document kept changing under us.
        NotRunning: the gateway does not follow the route.
        EndpointFailed: an endpoint could not be stopped or started.
    """
    alias = endpoint.checkpoint.revision.repo_id
    rule = verdict.policy_document.swap if verdict.policy_document else SwapRule()
    before = routes.get(alias)
    target = passed_target(verdict, endpoint, usd_per_hour)
    why_not = why_no_swap(verdict, before, rule)
    if before is None:
        return SwapRecord(alias=alias, how=rule.how, reason=why_not, route_version=None)
    if verdict.outcome != "pass":
        return _taken_out(routes, gateway, before, verdict, rule, at)
    rollout = Rollout(routes, gateway)
    if rule.how == "recreate" and not why_not:
        done = rollout.recreate(alias, endpoint.name, endpoints(), grant=target.grant, say=say)
        reason = f"{endpoint.name} has the alias, and what served it before was stopped"
        return SwapRecord(alias=alias, how="recreate", reason=reason, route_version=done.route.version, diff=done.diff)

    def following(route: Route | None) -> Route:
        nonlocal why_not
        now, why_not = route or before, why_no_swap(verdict, route, rule)
        if why_not:
            return readdressed(now, target, at=at)
        swap = Swap(to=target.endpoint, steps=rule.steps, step_since=at, hold_s=rule.hold_s, retain_s=rule.retain_s)
        return start_swap(now, target.model_copy(update={"tags": serving_tags(now)}), swap, Bounds(), at=at)

    done = rollout.change(alias, following)
    reason = why_not or f"{endpoint.name} takes the alias over, {' -> '.join(map(str, rule.steps))} %"
    return SwapRecord(alias=alias, how=rule.how, reason=reason, route_version=done.route.version, diff=done.diff)


def _taken_out(
    routes: RouteStore, gateway: GatewayClient, route: Route, verdict: Verdict, rule: SwapRule, at: datetime
) -> SwapRecord:
    """The alias without the copy, where a verdict had brought it there. What a person answers for stays."""
    own = next((t for t in route.targets if t.endpoint == verdict.endpoint), None)
    reason = f"the verdict is {verdict.outcome}"
    if own is None or own.grant is None or own.grant.verdict_id is None:
        return SwapRecord(alias=route.alias, how=rule.how, reason=reason, route_version=route.version)
    left = withdrawn(route, own.endpoint, at=at, reason=f"{own.endpoint}: {reason}")
    version = None
    if left is None:
        routes.delete(route.alias, route.version)
    else:
        version = routes.put(left, route.version).version
    if gateway.running():
        gateway.visible(route.alias, version, VISIBLE_TIMEOUT_S)
    diff = tuple(route_diff(route, left))
    return SwapRecord(
        alias=route.alias, how=rule.how, reason=f"{reason}, so it was taken out", route_version=version, diff=diff
    )
