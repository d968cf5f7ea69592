"""`modelops routes`: which endpoints answer for an alias, and with which weight."""

from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli import rollout
from modelops_dagster.cli.output import CommandGroup, emit, json_option, table
from modelops_dagster.cli.rollout import open_moves, open_rollout, override_options, show_change

if TYPE_CHECKING:
    from modelops_dagster.domain.gateway import Grant, Route, RouteTarget


@click.group(name="routes", cls=CommandGroup)
def command() -> None:
    """Which endpoints answer for an alias, and moving an alias from one to another."""


for part in rollout.COMMANDS:
    command.add_command(part)


@command.command(name="list")
@json_option
def list_routes(as_json: bool) -> None:
    """Every alias and what stands behind it."""
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.settings import Settings

    routes = RouteStore(Settings.load().home / "gateway").list()

    def render() -> None:
        if not routes:
            click.echo("No routes yet: `modelops onboard REPO_ID --wait` makes one when the verdict allows it.")
            return
        rows = [
            (r.alias, r.version, t.endpoint, t.weight, ", ".join(t.tags) or None, _role(r, t))
            for r in routes
            for t in r.targets
        ]
        table("", ["alias", "version", "endpoint", "weight", "tags", "role"], rows)

    emit(list(routes), as_json, render)


@command.command(name="show")
@click.argument("alias")
@json_option
def show(alias: str, as_json: bool) -> None:
    """One route, with every version it had and why it was changed."""
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.domain.gateway import SETTINGS, deployment_id
    from modelops_dagster.settings import Settings

    route = open_rollout().require(alias)
    history = RouteStore(Settings.load().home / "gateway").history(alias)

    def render() -> None:
        rows = [
            (deployment_id(t), t.weight, ", ".join(t.tags) or None, _role(route, t), _entitled(t.grant), t.url or None)
            for t in route.targets
        ]
        columns = ["deployment", "weight", "tags", "role", "granted by", "url"]
        table(f"{alias}, version {route.version}", columns, rows)
        settings = [(name, getattr(route, name)) for name in SETTINGS if getattr(route, name)]
        if settings:
            table("", ["setting", "value"], settings)
        told = [
            (r.version, f"{r.updated_at:%Y-%m-%d %H:%M:%S}", _in_short(r), r.reason or None, r.verdict_id)
            for r in history
        ]
        table("", ["version", "when", "weights", "why", "verdict"], told)

    emit({"route": route, "history": history}, as_json, render)


@command.command(name="set")
@click.argument("alias")
@click.argument("weights", nargs=-1, metavar="ENDPOINT=WEIGHT...")
@click.option("--tags", help="Who may reach the named endpoints, comma-separated; 'none' is everybody with a key.")
@click.option("--sticky/--no-sticky", default=None, help="A user stays with the endpoint that answered first.")
@click.option(
    "--fallback", "fallbacks", multiple=True, help="Alias that answers when none of these can; 'none' clears."
)
@click.option("--timeout-s", type=click.FloatRange(min=0), help="Seconds one attempt may take; 0: the gateway's own.")
@click.option("--max-in-flight", type=click.IntRange(min=0), help="Calls at once, more are refused; 0: no limit.")
@click.option("--usd-per-hour", type=click.FloatRange(min=0), help="What their hardware costs, where no spec says.")
@override_options
@json_option
def set_route(
    alias: str,
    weights: tuple[str, ...],
    tags: str | None,
    sticky: bool | None,
    fallbacks: tuple[str, ...],
    timeout_s: float | None,
    max_in_flight: int | None,
    usd_per_hour: float | None,
    override: "Grant | None",
    as_json: bool,
) -> None:
    """Give endpoints of a route weights, add endpoints, and set how the alias is answered; the rest stays.

    An endpoint that answers calls needs a verdict that passed it, or --override-reason.
    """
    asked = dict(_weight(w) for w in weights)
    settings: dict[str, Any] = {
        "sticky": sticky,
        "fallbacks": _cleared(fallbacks) if fallbacks else None,
        "timeout_s": timeout_s,
        "max_in_flight": max_in_flight,
    }
    given = {k: v for k, v in settings.items() if v is not None}
    given |= {k: None for k in ("timeout_s", "max_in_flight") if given.get(k) == 0}
    fields: dict[str, Any] = {} if tags is None else {"tags": _cleared(tuple(tags.split(",")))}
    fields |= {} if usd_per_hour is None else {"usd_per_hour": usd_per_hour}
    reason = override.reason if override else f"set {' '.join(weights)}".strip()
    done = open_moves().set(
        alias, asked, target_fields=fields, settings=given, reason=reason or "set", override=override
    )
    show_change(done, as_json)


@command.command(name="rollback")
@click.argument("alias")
@click.option("--to", "to_version", type=int, help="Version to go back to. Default: the one before the present one.")
@json_option
def rollback(alias: str, to_version: int | None, as_json: bool) -> None:
    """Put back what the route was before its last change."""
    show_change(open_moves().rollback(alias, to_version), as_json)


def _weight(text: str) -> tuple[str, int]:
    from modelops_dagster.domain.errors import InvalidSpec

    endpoint, _, weight = text.rpartition("=")
    if not endpoint or not weight.isdecimal():
        raise InvalidSpec(f"{text!r} is not ENDPOINT=WEIGHT with a whole weight, e.g. my-endpoint=5.", field="weight")
    return endpoint, int(weight)


def _cleared(names: tuple[str, ...]) -> tuple[str, ...]:
    kept = tuple(name.strip() for name in names if name.strip())
    return () if kept == ("none",) else kept


def _role(route: "Route", target: "RouteTarget") -> str | None:
    if route.swap is not None and route.swap.to == target.endpoint:
        return f"swap, step {route.swap.step + 1} of {len(route.swap.steps)}"
    if route.canary is not None and route.canary.endpoint == target.endpoint:
        return "canary"
    if target.mirror_percent:
        return f"gets copies of {target.mirror_percent} %"
    retiring = {r.endpoint: r.stop_at for r in route.retiring}
    return f"stopped at {retiring[target.endpoint]:%Y-%m-%d %H:%M}" if target.endpoint in retiring else None


def _entitled(grant: "Grant | None") -> str | None:
    if grant is None:
        return None
    return grant.verdict_id or f"{grant.by}: {grant.reason}"


def _in_short(route: "Route") -> str:
    return ", ".join(f"{t.endpoint}={t.weight}" for t in route.targets) or "withdrawn"
