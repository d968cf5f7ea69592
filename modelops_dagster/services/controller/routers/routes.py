"""/v1/routes: which endpoints answer for an alias, and moving it. The same changes as `modelops routes` makes.

Handlers run in threads: a change waits until a running gateway serves it.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ConfigDict, Field

from modelops_dagster.clients.moves import Moves
from modelops_dagster.clients.rollout import Change
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.access import Caller, Role
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.errors import NotFound
from modelops_dagster.domain.gateway import Grant, Route
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.doorman import Asking, needs, require

Alias = Annotated[str, Path(max_length=160, description="name, org/name or org/name:lane", examples=["acme/tiny"])]
Weight = Annotated[int, Field(ge=0, le=1_000_000)]
_SETTINGS = ("sticky", "fallbacks", "timeout_s", "max_in_flight")
_TARGET_FIELDS = ("tags", "usd_per_hour")


class RouteList(Value):
    routes: tuple[Route, ...]


class RouteShown(Value):
    route: Route
    history: tuple[Route, ...] = Field(description="every version, oldest first, and why it was made")


class RouteChanged(Value):
    route: Route
    diff: tuple[str, ...] = Field(description="what changed, a line per target; empty when nothing did")
    served: bool = Field(description="a running gateway serves it; false: the next one will")


class Guard(Value):
    """What every change may say besides."""

    expected_version: int | None = Field(
        default=None, ge=0, le=1 << 53, description="change only this version (0: there is no route yet), else 409"
    )


class Overriding(Guard):
    override_reason: str | None = Field(
        default=None,
        min_length=3,
        max_length=500,
        description="lets the endpoint answer without a verdict that passed it; recorded; needs the role admin",
    )

    def grant(self, caller: Caller) -> Grant | None:
        """The override in the caller's name.

        Raises:
            Forbidden: the caller is no admin.
        """
        if self.override_reason is None:
            return None
        require(caller, Role.ADMIN, "override_reason")
        return Grant(reason=self.override_reason, by=caller.alias, at=datetime.now(UTC))


class RouteSetting(Overriding):
    """Weights of endpoints, and how the alias is answered. What is left out stays as it is; null clears."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"weights": {"tiny-raw": 95, "tiny-fp8": 5}, "expected_version": 3}]}
    )

    weights: dict[str, Weight] = Field(default_factory=dict, max_length=100, description="by endpoint; proportional")
    tags: tuple[str, ...] | None = Field(
        default=None, max_length=20, description="who may reach the named endpoints; empty: everybody with a key"
    )
    usd_per_hour: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="what the named endpoints' hardware costs"
    )
    sticky: bool | None = Field(default=None, description="a user stays with the endpoint that answered first")
    fallbacks: tuple[str, ...] | None = Field(default=None, max_length=20, description="aliases that answer instead")
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="of one attempt")
    max_in_flight: int | None = Field(default=None, ge=1, le=1_000_000, description="calls at once")


class CanaryStart(Overriding):
    model_config = ConfigDict(json_schema_extra={"examples": [{"endpoint": "tiny-fp8", "percent": 5}]})

    endpoint: str = Field(max_length=64)
    percent: int = Field(default=5, ge=0, le=100, description="of the alias's calls")
    max_error_increase: float | None = Field(default=None, ge=0, le=0.99, description="tolerated difference of rates")
    max_slowdown: float | None = Field(
        default=None, ge=1, allow_inf_nan=False, description="a call is slow above this multiple of the others' p90"
    )


class Promotion(Overriding):
    model_config = ConfigDict(json_schema_extra={"examples": [{"endpoint": "tiny-fp8", "expected_version": 4}]})

    endpoint: str | None = Field(default=None, max_length=64, description="default: the canary")


class Rollback(Guard):
    model_config = ConfigDict(json_schema_extra={"examples": [{"to_version": 3}]})

    to_version: int | None = Field(default=None, ge=1, le=1 << 53, description="default: the one before this one")


def routes_router(routes: RouteStore, moves: Moves) -> APIRouter:
    """Reading and changing routes. An alias may hold a slash: it is written as it is."""
    router = APIRouter(prefix="/v1/routes", tags=["routes"])

    @router.get("", **needs(Role.VIEWER), summary="Every route")
    def list_routes() -> RouteList:
        return RouteList(routes=routes.list())

    @router.get("/{alias:path}", **needs(Role.VIEWER), summary="One route and its history")
    def show(alias: Alias) -> RouteShown:
        route = routes.get(alias)
        if route is None:
            raise NotFound(f"There is no route {alias!r}; GET /v1/routes lists those there are.")
        return RouteShown(route=route, history=routes.history(alias))

    @router.put("/{alias:path}", **needs(Role.OPERATOR), summary="Set weights and settings")
    def put(alias: Alias, setting: RouteSetting, caller: Asking) -> RouteChanged:
        """Creates the route when there is none. An endpoint that begins to answer needs a verdict that passed it."""
        told = f"set {' '.join(f'{name}={weight}' for name, weight in setting.weights.items())} by {caller.alias}"
        done = moves.set(
            alias,
            setting.weights,
            target_fields=_given(setting, _TARGET_FIELDS, {"tags": (), "usd_per_hour": 0.0}),
            settings=_given(setting, _SETTINGS, {"sticky": False, "fallbacks": ()}),
            reason=setting.override_reason or told,
            override=setting.grant(caller),
            expected_version=setting.expected_version,
        )
        return _changed(done)

    _add_moves(router, moves)
    return router


def _add_moves(router: APIRouter, moves: Moves) -> None:
    @router.post("/{alias:path}/canary", **needs(Role.OPERATOR), summary="Give an endpoint a small share")
    def canary(alias: Alias, start: CanaryStart, caller: Asking) -> RouteChanged:
        """The gateway takes the share back when the endpoint is worse than the others beyond the bounds."""
        bounds = Bounds(**start.model_dump(include=set(Bounds.model_fields), exclude_none=True))
        done = moves.canary(
            alias,
            start.endpoint,
            start.percent,
            bounds,
            override=start.grant(caller),
            expected_version=start.expected_version,
        )
        return _changed(done)

    @router.delete("/{alias:path}/canary", **needs(Role.OPERATOR), summary="End the canary")
    def end_canary(alias: Alias) -> RouteChanged:
        """The others have the whole alias again."""
        return _changed(moves.end_canary(alias))

    @router.post("/{alias:path}/promote", **needs(Role.OPERATOR), summary="Give an endpoint the whole alias")
    def promote(alias: Alias, promotion: Promotion, caller: Asking) -> RouteChanged:
        """At once; a rollback puts the others back."""
        done = moves.promote(
            alias,
            promotion.endpoint,
            override=promotion.grant(caller),
            expected_version=promotion.expected_version,
        )
        return _changed(done)

    @router.post("/{alias:path}/rollback", **needs(Role.OPERATOR), summary="Put back an earlier version")
    def rollback(alias: Alias, back: Rollback) -> RouteChanged:
        """As a new version; the history keeps the one that is left."""
        return _changed(moves.rollback(alias, back.to_version, expected_version=back.expected_version))


def _given(body: Value, names: tuple[str, ...], cleared: dict[str, Any]) -> dict[str, Any]:
    """The named fields that the body says something about; null is what `cleared` has for it, or stays null."""
    said = {name: getattr(body, name) for name in names if name in body.model_fields_set}
    return {name: cleared.get(name) if value is None else value for name, value in said.items()}


def _changed(done: Change) -> RouteChanged:
    return RouteChanged(route=done.route, diff=done.diff, served=done.served)
