"""Verbs of routes: which endpoints answer for an alias, and moving it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from modelops_dagster.client.connection import Connection
from modelops_dagster.clients.rollout import VISIBLE_TIMEOUT_S, Change
from modelops_dagster.domain.errors import InvalidSpec, NotFound
from modelops_dagster.domain.gateway import Route, is_alias, routed_targets

_SCALE = 10_000  # weights of shares: hundredths of a percent
# a change is answered when a running gateway serves it
_CHANGE_TIMEOUT_S = VISIBLE_TIMEOUT_S + 10.0


class RouteVerbs(Connection):
    """Each change is of the route as it is by then; with `expected_version` only of that one.

    `override_reason` lets an endpoint answer that no verdict passed; it needs an admin's key.
    """

    def list_routes(self) -> tuple[Route, ...]:
        """Every route, sorted by alias."""
        return tuple(Route.model_validate(item) for item in self._call("GET", "/v1/routes")["routes"])

    def get_route(self, alias: str) -> Route | None:
        """The route; None when the alias has none."""
        try:
            return Route.model_validate(self._call("GET", _path(alias))["route"])
        except NotFound:
            return None

    def set_route(self, alias: str, weights: Mapping[str, int] | None = None, **changes: Any) -> Change:
        """Give endpoints weights, add endpoints, and set how the alias is answered; the rest stays.

        Args:
            alias: the route, which need not exist.
            weights: by endpoint; proportional.
            changes: `tags`, `usd_per_hour`, `sticky`, `fallbacks`, `timeout_s`, `max_in_flight`, `expected_version` and
                `override_reason`; None clears.

        Raises:
            InvalidSpec: an endpoint is unknown or may not answer, or a field does not hold.
            EndpointFailed: an endpoint does not run.
            Conflict: the route is at another version.
            Forbidden: an override needs an admin's key.
        """
        return self._move("PUT", _path(alias), {"weights": dict(weights or {}), **changes})

    def create_canary(self, alias: str, endpoint: str, traffic_percentage: int = 5, **options: Any) -> Change:
        """Give the endpoint a small share of the alias; the gateway takes it back when it is worse than the others.

        Args:
            alias: a route that something else serves.
            endpoint: on trial.
            traffic_percentage: of the alias's calls, 0 to 100.
            options: `max_error_increase`, `max_slowdown`, `expected_version` and `override_reason`.

        Raises:
            InvalidSpec, EndpointFailed, Conflict, Forbidden: as `set_route`.
        """
        return self._move(
            "POST", _path(alias, "/canary"), {"endpoint": endpoint, "percent": traffic_percentage, **options}
        )

    def end_canary(self, alias: str) -> Change:
        """The others have the whole alias again."""
        return self._move("DELETE", _path(alias, "/canary"), None)

    def promote(self, alias: str, endpoint: str | None = None, **options: Any) -> Change:
        """Give the endpoint, by default the canary, the whole alias at once."""
        return self._move("POST", _path(alias, "/promote"), {"endpoint": endpoint, **options})

    def rollback(self, alias: str, to_version: int | None = None, **options: Any) -> Change:
        """Put back an earlier version, by default the one before the present one."""
        return self._move("POST", _path(alias, "/rollback"), {"to_version": to_version, **options})

    def update_endpoint_traffic(self, alias: str, traffic: Mapping[str, float], **options: Any) -> Change:
        """Split the alias: A/B with two shares, blue-green with 0 and 1.

        Args:
            alias: the route.
            traffic: by endpoint, 0 to 1; together 1.
            options: `expected_version` and `override_reason`.

        Raises:
            InvalidSpec: the shares are not 1 together; and as `set_route`.
            Conflict: somebody else changed the route meanwhile.
        """
        if min(traffic.values(), default=-1.0) < 0 or abs(sum(traffic.values()) - 1) > 1 / _SCALE:
            raise InvalidSpec(
                f"the shares {dict(traffic)} are not 1 together; give each endpoint a share from 0 to 1.",
                field="traffic",
            )
        weights = {name: round(share * _SCALE) for name, share in traffic.items()}
        route = self.get_route(alias)
        rest = {t.endpoint: 0 for t in routed_targets(route) if t.endpoint not in traffic} if route else {}
        read = {"expected_version": route.version if route else 0}
        return self.set_route(alias, rest | weights, **(read | options))

    def _move(self, method: str, path: str, body: dict[str, Any] | None) -> Change:
        more = {} if body is None else {"json": body}
        answer = self._call(method, path, timeout=_CHANGE_TIMEOUT_S, **more)
        return Change(Route.model_validate(answer["route"]), tuple(answer["diff"]), bool(answer["served"]))


def _path(alias: str, verb: str = "") -> str:
    """The route's address. What can be no alias is answered here, before it becomes another address."""
    if not is_alias(alias):
        raise InvalidSpec(f"{alias!r} is not an alias; use name or org/name.", field="alias")
    return f"/v1/routes/{quote(alias)}{verb}"
