"""Applying a verdict to the gateway: the route is written, seen to be live, and reported with its diff."""

from datetime import datetime

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import Conflict
from modelops_dagster.domain.lanes import lane_alias
from modelops_dagster.domain.registration import Registration, next_route, retired_endpoints
from modelops_dagster.domain.route_changes import route_diff
from modelops_dagster.domain.verdicts import Verdict

ATTEMPTS = 5
VISIBLE_TIMEOUT_S = 30


def apply_registration(
    routes: RouteStore,
    gateway: GatewayClient,
    *,
    endpoint: Endpoint,
    verdict: Verdict,
    at: datetime,
    usd_per_hour: float = 0.0,
) -> Registration:
    """Make the alias's route what the verdict grants. Applying the same verdict twice changes nothing.

    Args:
        usd_per_hour: what the endpoint's hardware costs.

    Raises:
        Conflict: the document kept changing under us.
        NotRunning: the gateway does not follow the route.
    """
    alias = lane_alias(endpoint.checkpoint.revision.repo_id, verdict.lane)
    for attempt in range(ATTEMPTS):
        before = routes.get(alias)
        wanted = next_route(before, verdict, endpoint, at, usd_per_hour)
        diff = route_diff(before, wanted)
        version = before.version if before else 0
        try:
            if not diff:
                after = before
            elif wanted is None:
                routes.delete(alias, version)
                after = None
            else:
                after = routes.put(wanted, version)
            break
        except Conflict:  # somebody else moved the weights: decide again on what is there now
            if attempt == ATTEMPTS - 1:
                raise
    gateway.visible(alias, after.version if after else None, timeout_s=VISIBLE_TIMEOUT_S)
    elsewhere = routes.endpoints(besides=alias)  # a copy may answer under the repository's alias as well as its own
    granted = next((t.tags for t in after.targets if t.endpoint == endpoint.name), ()) if after else ()
    return Registration(
        alias=alias,
        outcome=verdict.outcome,
        tags=granted,
        endpoint=endpoint.name,
        commit_hash=endpoint.checkpoint.revision.commit_hash,
        route_version=after.version if after else None,
        diff=tuple(diff) or ("unchanged",),
        retired=tuple(name for name in retired_endpoints(before, after, endpoint) if name not in elsewhere),
    )
