"""Taking a model out of service because its publisher took it back: the route goes, the history stays."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.errors import Conflict
from modelops_dagster.domain.lanes import LANES, lane_alias

ATTEMPTS = 5
VISIBLE_TIMEOUT_S = 10.0


class Endpoints(Protocol):
    """The part of the controller's client that is needed."""

    def list(self) -> Iterable[EndpointStatus]: ...

    def stop(self, name: str) -> Any: ...


class Withdrawal(NamedTuple):
    """What was done now; both empty when there was nothing left to do."""

    route_version: int | None
    stopped: tuple[str, ...]


def withdraw(routes: RouteStore, gateway: GatewayClient, endpoints: Endpoints, repo_id: str) -> Withdrawal:
    """Withdraw the routes of a model, those of its lanes too, then stop its endpoints. Doing it again changes nothing.

    An endpoint that another alias still uses goes on. Checkpoints, scores and verdicts are left as they are.

    Raises:
        Conflict: the route kept changing under us.
        NotRunning: the gateway or the controller does not answer.
    """
    versions = {}
    for alias in (lane_alias(repo_id, lane.name) for lane in LANES):
        versions[alias] = _delete_route(routes, alias)
        if versions[alias] is not None:
            gateway.visible(alias, None, timeout_s=VISIBLE_TIMEOUT_S)
    in_use = routes.endpoints()
    # the served name starts with the repository, so endpoints are found when the route is gone already
    ours = [s for s in endpoints.list() if s.spec.served_model_name.startswith(f"{repo_id}@")]
    names = [s.spec.name for s in ours if s.desired == "Running" and s.spec.name not in in_use]
    for name in names:
        endpoints.stop(name)
    return Withdrawal(versions[repo_id], tuple(names))


def _delete_route(routes: RouteStore, alias: str) -> int | None:
    """The version that was withdrawn; None when the alias has no route."""
    for attempt in range(ATTEMPTS):
        route = routes.get(alias)
        if route is None:
            return None
        try:
            routes.delete(alias, route.version)
            return route.version
        except Conflict:
            if attempt == ATTEMPTS - 1:
                raise
    return None
