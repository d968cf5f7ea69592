"""Taking dead previews out of the gateway, and endpoints without a lease off the machine."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.errors import Conflict
from modelops_dagster.domain.upkeep import UpkeepPolicy, dead_previews, named_in, unleased, without_dead


class Endpoints(Protocol):
    """The part of the controller's client that is needed."""

    def list(self) -> Sequence[EndpointStatus]: ...

    def stop(self, name: str) -> Any: ...

    def delete(self, name: str) -> Any: ...


class Withdrawn(NamedTuple):
    """Endpoints that an alias lost, and why. `route_gone`: nothing was left behind it."""

    alias: str
    dead: Mapping[str, str]
    route_gone: bool


def withdraw_dead(
    routes: RouteStore,
    statuses: Sequence[EndpointStatus],
    gone_since: Mapping[str, datetime],
    now: datetime,
    policy: UpkeepPolicy,
) -> list[Withdrawn]:
    """Take dead previews out of every route. A route that somebody changes at this moment is left for the next time.

    Raises:
        IntegrityError: a route document cannot be read.
    """
    by_name = {s.spec.name: s for s in statuses}
    done = []
    for route in routes.list():
        dead = dead_previews(route, by_name, gone_since, now, policy)
        if not dead:
            continue
        after = without_dead(route, dead, now)
        try:
            if after is None:
                routes.delete(route.alias, route.version)
            else:
                routes.put(after, route.version)
        except Conflict:
            continue
        done.append(Withdrawn(route.alias, dead, route_gone=after is None))
    return done


def reap(
    routes: RouteStore,
    endpoints: Endpoints,
    *,
    busy: Collection[str],
    on_hold: Collection[str],
    now: datetime,
    policy: UpkeepPolicy,
) -> list[str]:
    """Stop, and much later delete, endpoints nobody holds a lease on; a line for each.

    Raises:
        NotRunning: the controller does not answer.
        IntegrityError: a route document cannot be read, so nobody knows what it holds; nothing was done.
    """
    in_routes = named_in(routes.list())
    said = []
    for status in endpoints.list():
        name = status.spec.name
        todo = unleased(status, in_routes=in_routes, busy=busy, on_hold=on_hold, now=now, policy=policy)
        if todo == "stop":
            endpoints.stop(name)
            said.append(f"{name}: stopped, no route, run or verdict holds it")
        elif todo == "delete":
            endpoints.delete(name)
            said.append(f"{name}: deleted, at rest since {status.since:%Y-%m-%d} and held by nobody")
    return said
