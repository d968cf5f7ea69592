"""What the endpoints behind a route are right now: the controller's table laid over the route documents.

A route names an endpoint and the address it had when it was registered. The controller's endpoints come back on other
ports, have several replicas, and sleep; what `live.json` says of one goes before the document. An endpoint that the
controller does not know, or that serves another name now, is where its document says. The same goes for the price and
the longest attempt, which an endpoint's spec may change at any time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modelops_dagster.clients.endpoints import LiveEndpoint
from modelops_dagster.domain.gateway import Route, RouteTarget

# After the Router's id of a target: which replica. "#" is part of no endpoint name, commit or alias.
SEPARATOR = "#"
ABSENT = "absent"

Live = Mapping[str, LiveEndpoint]


def known_of(target: RouteTarget, live: Live) -> LiveEndpoint | None:
    """What the controller says of the target; None when it is none of its endpoints."""
    found = live.get(target.endpoint) if target.provider is None else None
    return found if found is not None and found.served_model_name == target.served_model_name else None


def addresses(target: RouteTarget, live: Live) -> tuple[str, ...]:
    """Base URLs at which the target answers now; none while it sleeps, starts or is stopped."""
    found = known_of(target, live)
    return (target.url,) if found is None else found.urls


def as_specified(route: Route, live: Live) -> Route:
    """The route with the prices and the longest attempts that its endpoints' specs say now.

    A spec without a price leaves the document's. A route's own time goes before its endpoints', here as elsewhere.
    """
    targets = tuple(_as_specified(target, live) for target in route.targets)
    return route if targets == route.targets else route.model_copy(update={"targets": targets})


def _as_specified(target: RouteTarget, live: Live) -> RouteTarget:
    found = known_of(target, live)
    if found is None:
        return target
    now: dict[str, float | None] = {"timeout_s": found.request_timeout_s}
    if found.usd_per_hour is not None:
        now["usd_per_hour"] = found.usd_per_hour * max(1, len(found.urls))
    return target.model_copy(update=now)


def wakes(target: RouteTarget, live: Live) -> bool:
    """Whether the target does not answer now and will when it is asked for."""
    found = known_of(target, live)
    return found is not None and found.wakes and not found.urls


def replicas_of(item: Mapping[str, Any], target: RouteTarget, live: Live) -> list[dict[str, Any]]:
    """The target's LiteLLM deployment once for each replica.

    One that answers nowhere stays in the Router, for an alias without any deployment would be an unknown model; its id
    says so and `on_duty` leaves it out.
    """
    found = known_of(target, live)
    if found is None:
        return [dict(item)]
    identity = item["model_info"]["id"]
    if not found.urls:
        return [{**item, "model_info": {"id": f"{identity}{SEPARATOR}{ABSENT}"}}]
    return [
        {
            **item,
            "litellm_params": {**item["litellm_params"], "api_base": url},
            "model_info": {"id": f"{identity}{SEPARATOR}{url}"},
        }
        for url in found.urls
    ]


def on_duty(deployments: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The Router's id of each target -> the deployments of its replicas that answer."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for deployment in deployments:
        target, _, replica = deployment["model_info"]["id"].partition(SEPARATOR)
        if replica != ABSENT:
            found.setdefault(target, []).append(deployment)
    return found
