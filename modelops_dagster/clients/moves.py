"""What people ask of a route, the same for the `modelops routes` command and the REST API."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from modelops_dagster.clients.rollout import Change, KnownEndpoints, Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.errors import Conflict, InvalidSpec
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, rolled_back, with_targets
from modelops_dagster.domain.rollout import end_canary, serving_tags, split, start_canary


class Moves:
    """Changes of routes by endpoints' names.

    With `expected_version` a change is made only of that version of the route (0: of none), else Conflict is raised;
    without it, it is made of whatever the route is by then. With `override` an endpoint may answer without a verdict.

    Args:
        endpoints: gives the controller; asked only for endpoints that are not behind the alias yet.
    """

    def __init__(self, rollout: Rollout, routes: RouteStore, endpoints: Callable[[], KnownEndpoints]) -> None:
        self._rollout = rollout
        self._routes = routes
        self._endpoints = endpoints

    def find(self, alias: str, names: "list[str]", override: Grant | None = None) -> list[RouteTarget]:
        """The endpoints as targets of the alias.

        Raises:
            InvalidSpec: nobody knows an endpoint.
            EndpointFailed: the controller knows it, and it does not run.
        """
        route = self._routes.get(alias)
        behind = {t.endpoint for t in route.targets} if route else set()
        controller = None if behind.issuperset(names) else self._endpoints()
        return [self._rollout.target(alias, name, controller, override=override) for name in names]

    def set(
        self,
        alias: str,
        weights: Mapping[str, int],
        *,
        target_fields: Mapping[str, Any],
        settings: Mapping[str, Any],
        reason: str,
        override: Grant | None = None,
        expected_version: int | None = None,
    ) -> Change:
        """Give endpoints weights, add endpoints, and set how the alias is answered; the rest stays.

        Args:
            alias: the route, which need not exist.
            weights: by endpoint.
            target_fields: `tags` and `usd_per_hour` of the named endpoints, where they change.
            settings: `sticky`, `fallbacks`, `timeout_s` and `max_in_flight`, where they change; None clears.
            reason: kept in the route's history.
            override: lets the named endpoints answer without a verdict.
            expected_version: of the route.

        Raises:
            InvalidSpec: an endpoint is unknown or may not answer, or the route would not hold.
            EndpointFailed: an endpoint does not run.
            Conflict: the route is at another version.
        """
        found = self.find(alias, list(weights), override)

        def change(route: Route | None) -> Route:
            if route is None and not found:
                raise InvalidSpec(
                    f"there is no route {alias!r} yet: name what answers, e.g. my-endpoint=1.", field="alias"
                )
            targets = list(route.targets) if route else []
            for target in found:
                target = target.model_copy(update={"weight": weights[target.endpoint], **target_fields})
                names = [t.endpoint for t in targets]
                if target.endpoint in names:
                    targets[names.index(target.endpoint)] = target
                else:
                    targets.append(target)
            verdict_id = route.verdict_id if route else None
            made = with_targets(route, alias, targets, at=_now(), verdict_id=verdict_id, reason=reason)
            try:
                return Route.model_validate({**made.model_dump(), **settings})
            except ValidationError as error:
                field, said = first_fault(error)
                raise InvalidSpec(f"route {alias!r} would not hold: {said}.", field=field or None) from error

        return self._change(alias, change, expected_version)

    def canary(
        self,
        alias: str,
        endpoint: str,
        percent: int,
        bounds: Bounds,
        *,
        override: Grant | None = None,
        expected_version: int | None = None,
    ) -> Change:
        """Give the endpoint a small share; the gateway takes it back when it is worse than the others.

        Raises:
            InvalidSpec: the route or the endpoint is unknown, may not answer, or nothing else serves the alias.
            EndpointFailed: the endpoint does not run.
            Conflict: the route is at another version.
        """
        current = self._rollout.require(alias)
        target = for_everybody_there(current, self.find(alias, [endpoint], override)[0])
        return self._change(
            alias, lambda r: start_canary(r or current, target, percent, bounds, at=_now()), expected_version
        )

    def end_canary(self, alias: str, *, expected_version: int | None = None) -> Change:
        """End the trial: the others have the whole alias again.

        Raises:
            InvalidSpec: the route is unknown or has no canary.
            Conflict: the route is at another version.
        """
        current = self._rollout.require(alias)
        return self._change(
            alias, lambda r: end_canary(r or current, at=_now(), reason="canary ended"), expected_version
        )

    def promote(
        self,
        alias: str,
        endpoint: str | None,
        *,
        override: Grant | None = None,
        expected_version: int | None = None,
    ) -> Change:
        """Give the endpoint, by default the canary, the whole alias at once; `rollback` puts the others back.

        Raises:
            InvalidSpec: the route or the endpoint is unknown, may not answer, or there is no canary.
            EndpointFailed: the endpoint does not run.
            Conflict: the route is at another version.
        """
        current = self._rollout.require(alias)
        name = endpoint or (current.canary.endpoint if current.canary else None)
        if name is None:
            raise InvalidSpec(f"route {alias!r} has no canary; name the endpoint to promote.", field="endpoint")
        target = for_everybody_there(current, self.find(alias, [name], override)[0])
        return self._change(
            alias,
            lambda r: split(r or current, target, 100, at=_now(), reason=f"promoted {name}"),
            expected_version,
        )

    def rollback(self, alias: str, to_version: int | None, *, expected_version: int | None = None) -> Change:
        """Put back an earlier version, by default the one before the present one.

        Raises:
            InvalidSpec: the route is unknown or has no such earlier version.
            Conflict: the route is at another version.
        """
        current = self._rollout.require(alias)
        earlier = [r for r in self._routes.history(alias) if r.version < current.version and r.targets]
        chosen = [r for r in earlier if to_version in (None, r.version)]
        if not chosen:
            known = ", ".join(str(r.version) for r in earlier) or "none"
            raise InvalidSpec(
                f"route {alias!r} has no such earlier version; the ones to go back to are: {known}.",
                field="to_version",
            )
        return self._change(alias, lambda r: rolled_back(r or current, chosen[-1], at=_now()), expected_version)

    def _change(self, alias: str, change: Callable[[Route | None], Route], expected_version: int | None) -> Change:
        def checked(route: Route | None) -> Route:
            version = route.version if route else 0
            if expected_version not in (None, version):
                raise Conflict(
                    f"route {alias!r} is at version {version} and not {expected_version}; read it again and repeat "
                    "the change."
                )
            return change(route)

        return self._rollout.change(alias, checked)


def for_everybody_there(route: Route, target: RouteTarget) -> RouteTarget:
    """The target with the tags of what serves now: it has to answer the same callers."""
    return target.model_copy(update={"tags": serving_tags(route)})


def _now() -> datetime:
    return datetime.now(UTC)
