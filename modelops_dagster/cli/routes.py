"""`modelops routes`: which endpoints answer for an alias, and with which weight."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.domain.gateway import Route

VISIBLE_TIMEOUT_S = 10


@click.group(name="routes")
def command() -> None:
    """Which endpoints answer for an alias."""


@command.command(name="list")
@json_option
def list_routes(as_json: bool) -> None:
    """Every alias and what stands behind it."""
    routes = _store().list()

    def render() -> None:
        if not routes:
            click.echo("No routes yet: `modelops onboard REPO_ID --wait` makes one when the verdict allows it.")
            return
        rows = [
            (r.alias, r.version, t.endpoint, t.weight, ", ".join(t.tags) or None) for r in routes for t in r.targets
        ]
        table("", ["alias", "version", "endpoint", "weight", "tags"], rows)

    emit(list(routes), as_json, render)


@command.command(name="show")
@click.argument("alias")
@json_option
def show(alias: str, as_json: bool) -> None:
    """One route, with every version it had."""
    from modelops_dagster.domain.gateway import deployment_id

    store = _store()
    route = _require(store, alias)
    history = store.history(alias)

    def render() -> None:
        rows = [(deployment_id(t), t.weight, ", ".join(t.tags) or None, t.url) for t in route.targets]
        table(f"{alias}, version {route.version}", ["deployment", "weight", "tags", "url"], rows)
        told = [(r.version, f"{r.updated_at:%Y-%m-%d %H:%M:%S}", _in_short(r), r.verdict_id) for r in history]
        table("", ["version", "when", "weights", "verdict"], told)

    emit({"route": route, "history": history}, as_json, render)


@command.command(name="set")
@click.argument("alias")
@click.argument("weights", nargs=-1, required=True, metavar="ENDPOINT=WEIGHT...")
@json_option
def set_weights(alias: str, weights: tuple[str, ...], as_json: bool) -> None:
    """Give endpoints of a route new weights; those not named keep theirs."""
    from modelops_dagster.domain.gateway import with_weights

    store = _store()
    current = _require(store, alias)
    _apply(store, current, with_weights(current, dict(_weight(w) for w in weights), at=datetime.now(UTC)), as_json)


@command.command(name="rollback")
@click.argument("alias")
@click.option("--to", "to_version", type=int, help="Version to go back to. Default: the one before the present one.")
@json_option
def rollback(alias: str, to_version: int | None, as_json: bool) -> None:
    """Put back what the route was before its last change."""
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gateway import rolled_back

    store = _store()
    current = _require(store, alias)
    earlier = [r for r in store.history(alias) if r.version < current.version and r.targets]
    chosen = [r for r in earlier if to_version in (None, r.version)]
    if not chosen:
        known = ", ".join(str(r.version) for r in earlier) or "none"
        raise InvalidSpec(f"route {alias!r} has no such earlier version; the ones to go back to are: {known}.")
    _apply(store, current, rolled_back(current, chosen[-1], at=datetime.now(UTC)), as_json)


def _store() -> "RouteStore":
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.settings import Settings

    return RouteStore(Settings.load().home / "gateway")


def _require(store: "RouteStore", alias: str) -> "Route":
    from modelops_dagster.domain.errors import InvalidSpec

    route = store.get(alias)
    if route is None:
        known = ", ".join(store.aliases()) or "none"
        raise InvalidSpec(f"there is no route {alias!r}; the aliases are: {known}.", field="alias")
    return route


def _apply(store: "RouteStore", current: "Route", wanted: "Route", as_json: bool) -> None:
    """Write the change and, when a gateway runs, wait until it serves it."""
    from modelops_dagster.clients.gateway import GatewayClient
    from modelops_dagster.domain.gateway import route_diff
    from modelops_dagster.settings import Settings

    diff = route_diff(current, wanted)
    written = store.put(wanted, current.version) if diff else current
    gateway = GatewayClient(Settings.load().gateway_url)
    served = gateway.running()
    if served:
        gateway.visible(written.alias, written.version, VISIBLE_TIMEOUT_S)

    def render() -> None:
        click.echo("\n".join(diff) or "unchanged")
        state = "served by the gateway" if served else "no gateway runs; the next one serves it"
        click.echo(f"{written.alias} version {written.version}: {state}")

    emit({"route": written, "diff": diff, "served": served}, as_json, render)


def _weight(text: str) -> tuple[str, int]:
    from modelops_dagster.domain.errors import InvalidSpec

    endpoint, _, weight = text.rpartition("=")
    if not endpoint or not weight.isdecimal():
        raise InvalidSpec(f"{text!r} is not ENDPOINT=WEIGHT with a whole weight, e.g. my-endpoint=5.", field="weight")
    return endpoint, int(weight)


def _in_short(route: "Route") -> str:
    return ", ".join(f"{t.endpoint}={t.weight}" for t in route.targets) or "withdrawn"
