"""The part of `modelops routes` that moves an alias: canary, promote, shadow, swap, and hosted APIs."""

import getpass
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.durations import DURATION
from modelops_dagster.cli.output import emit, json_option, progress_line

if TYPE_CHECKING:
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.clients.moves import Moves
    from modelops_dagster.clients.rollout import Change, Rollout
    from modelops_dagster.domain.gateway import Grant, Route


def override_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--override-reason`, as a grant in the name of whoever runs the command; recorded with the route."""

    def grant(_ctx: click.Context, _param: click.Parameter, reason: str | None) -> "Grant | None":
        from pydantic import ValidationError

        from modelops_dagster.domain.errors import InvalidSpec
        from modelops_dagster.domain.gateway import Grant

        if reason is None:
            return None
        try:
            return Grant(reason=reason, by=getpass.getuser(), at=datetime.now(UTC))
        except ValidationError as error:
            raise InvalidSpec("--override-reason must say why, in 3 to 500 characters.", field="reason") from error

    told = "Let the endpoint answer without a verdict that passed it, for this reason; it is recorded."
    return click.option("--override-reason", "override", callback=grant, help=told)(command)


def open_rollout() -> "Rollout":
    """Changes of this home's routes."""
    from modelops_dagster.clients.gateway import GatewayClient
    from modelops_dagster.clients.rollout import Rollout
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    gateway = GatewayClient(settings.gateway_url, home=settings.home)
    return Rollout(RouteStore(settings.home / "gateway"), gateway, lineage=settings.home / "lineage")


def open_moves() -> "Moves":
    """What can be asked of this home's routes; the controller is asked only where it must be."""
    from modelops_dagster.clients.moves import Moves
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.settings import Settings

    return Moves(open_rollout(), RouteStore(Settings.load().home / "gateway"), _controller)


def show_change(done: "Change", as_json: bool) -> None:
    """Say what a change was, and whether it is served already."""

    def render() -> None:
        click.echo("\n".join(done.diff) or "unchanged")
        state = "served by the gateway" if done.served else "no gateway runs; the next one serves it"
        click.echo(f"{done.route.alias} version {done.route.version}: {state}")

    emit({"route": done.route, "diff": done.diff, "served": done.served}, as_json, render)


@click.command(name="canary")
@click.argument("alias")
@click.argument("endpoint", required=False)
@click.option(
    "--weight", "percent", type=click.IntRange(0, 100), default=5, show_default=True, help="Percent of calls."
)
@click.option("--max-error-increase", type=click.FloatRange(0, 0.99), help="Tolerated difference of error rates.")
@click.option("--max-slowdown", type=click.FloatRange(min=1), help="A call is slow above this multiple of the p90.")
@click.option("--end", is_flag=True, help="End the trial: the others have the whole alias again.")
@override_options
@json_option
def canary(
    alias: str,
    endpoint: str | None,
    percent: int,
    max_error_increase: float | None,
    max_slowdown: float | None,
    end: bool,
    override: "Grant | None",
    as_json: bool,
) -> None:
    """Give ENDPOINT a small share of ALIAS; the gateway takes it back when it is worse than the others."""
    from modelops_dagster.domain.canary import Bounds
    from modelops_dagster.domain.errors import InvalidSpec

    if end:
        show_change(open_moves().end_canary(alias), as_json)
        return
    if endpoint is None:
        raise InvalidSpec(f"which endpoint shall be the canary of {alias!r}? Name it.", field="endpoint")
    given = {"max_error_increase": max_error_increase, "max_slowdown": max_slowdown}
    bounds = Bounds(**{k: v for k, v in given.items() if v is not None})
    show_change(open_moves().canary(alias, endpoint, percent, bounds, override=override), as_json)


@click.command(name="promote")
@click.argument("alias")
@click.argument("endpoint", required=False)
@override_options
@json_option
def promote(alias: str, endpoint: str | None, override: "Grant | None", as_json: bool) -> None:
    """Give ENDPOINT (default: the canary) the whole alias at once; `rollback` puts the others back."""
    show_change(open_moves().promote(alias, endpoint, override=override), as_json)


@click.command(name="shadow")
@click.argument("alias")
@click.argument("endpoint")
@click.option("--percent", type=click.IntRange(0, 100), default=100, show_default=True, help="Calls copied; 0 ends it.")
@json_option
def shadow(alias: str, endpoint: str, percent: int, as_json: bool) -> None:
    """Copy calls to ENDPOINT: nobody gets its answers, and the call log has how it did."""
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gateway import SHADOW, with_targets

    current = open_rollout().require(alias)
    target = open_moves().find(alias, [endpoint])[0]
    if target.weight and SHADOW not in target.tags and endpoint in {t.endpoint for t in current.targets}:
        raise InvalidSpec(f"{endpoint!r} answers calls to {alias!r}, so it cannot be its shadow.", field="endpoint")
    dark = target.model_copy(update={"tags": (SHADOW,), "weight": 1, "mirror_percent": percent})

    def change(route: "Route | None") -> "Route":
        others = [t for t in (route or current).targets if t.endpoint != endpoint]
        targets = [*others, dark] if percent else others
        changed = with_targets(
            route, alias, targets, at=datetime.now(UTC), verdict_id=current.verdict_id, reason=f"shadow {endpoint}"
        )
        return changed.model_copy(update={"canary": (route or current).canary, "swap": (route or current).swap})

    show_change(open_rollout().change(alias, change), as_json)


@click.command(name="swap")
@click.argument("alias")
@click.option("--to", "endpoint", required=True, help="The endpoint that takes the alias over.")
@click.option("--steps", default="5,50,100", show_default=True, help="Its shares, in percent.")
@click.option("--hold", type=DURATION, default="15m", show_default=True, help="How long each step lasts.")
@click.option("--retain", type=DURATION, default="24h", show_default=True, help="How long the old endpoint runs on.")
@click.option("--recreate", is_flag=True, help="Stop the old one first: the hardware does not hold both.")
@override_options
@json_option
def swap(
    alias: str,
    endpoint: str,
    steps: str,
    hold: timedelta,
    retain: timedelta,
    recreate: bool,
    override: "Grant | None",
    as_json: bool,
) -> None:
    """Move ALIAS to another endpoint, step by step; the gateway goes on by itself and rolls back if it is worse."""
    from pydantic import ValidationError

    from modelops_dagster.clients.moves import for_everybody_there
    from modelops_dagster.domain.canary import Bounds
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gateway import Swap
    from modelops_dagster.domain.rollout import start_swap

    current = open_rollout().require(alias)
    if recreate:
        with progress_line(f"{alias}: swapping") as say:
            done = open_rollout().recreate(alias, endpoint, _controller(), grant=override, say=say)
        emit({"route": done.route, "diff": done.diff, "served": done.served}, as_json, lambda: click.echo("swapped"))
        return
    at = datetime.now(UTC)
    try:
        wanted = Swap(
            to=endpoint,
            steps=tuple(int(s) for s in steps.split(",")),
            step_since=at,
            hold_s=hold.total_seconds(),
            retain_s=retain.total_seconds(),
        )
    except (ValidationError, ValueError) as error:
        raise InvalidSpec(f"--steps {steps!r} must rise and end with 100, e.g. 5,50,100.", field="steps") from error
    target = for_everybody_there(current, open_moves().find(alias, [endpoint], override)[0])
    done = open_rollout().change(alias, lambda r: start_swap(r or current, target, wanted, Bounds(), at=at))
    show_change(done, as_json)


@click.command(name="hosted")
@click.argument("alias")
@click.argument("model", metavar="PROVIDER/MODEL")
@click.option("--credential", required=True, help="Name of the provider's key; `modelops routes credential` keeps it.")
@click.option("--url", default="", help="Base URL, where it is not the provider's own.")
@click.option("--weight", type=click.IntRange(min=1), default=1, show_default=True, help="Share beside the others'.")
@click.option("--tags", default="preview", show_default=True, help="Who may reach it, comma-separated; 'none' is all.")
@override_options
@json_option
def hosted(
    alias: str, model: str, credential: str, url: str, weight: int, tags: str, override: "Grant | None", as_json: bool
) -> None:
    """Put a hosted API behind ALIAS; it can be called at once. Needs --override-reason: no verdict is known of it."""
    from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gateway import RouteTarget, with_targets
    from modelops_dagster.settings import Settings, secret

    provider, _, name = model.partition("/")
    if not provider or not name:
        raise InvalidSpec(f"{model!r} is not PROVIDER/MODEL, e.g. anthropic/claude-sonnet-4-5.", field="model")
    store = CredentialStore(credentials_folder(Settings.load().home), secret)
    if store.get(credential) is None:
        have = ", ".join(store.names()) or "none"
        raise InvalidSpec(
            f"there is no credential {credential!r} (there are: {have}) and no such variable; make it with "
            f"`modelops routes credential {credential}`.",
            field="credential",
        )
    target = RouteTarget(
        endpoint=f"{provider}-{name}".replace("/", "-"),
        url=url,
        served_model_name=name,
        commit_hash=name.replace("/", "-"),
        weight=weight,
        tags=() if tags == "none" else tuple(t.strip() for t in tags.split(",")),
        provider=provider,
        credential=credential,
        grant=override,
    )

    def change(route: "Route | None") -> "Route":
        others = [t for t in route.targets if t.endpoint != target.endpoint] if route else []
        reason = f"hosted {model}"
        return with_targets(route, alias, [*others, target], at=datetime.now(UTC), reason=reason)

    show_change(open_rollout().change(alias, change), as_json)


@click.command(name="credential")
@click.argument("name")
@json_option
def credential(name: str, as_json: bool) -> None:
    """Keep a provider's key under NAME. It is read from standard input and never shown again."""
    from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
    from modelops_dagster.settings import Settings

    key = click.prompt("key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    CredentialStore(credentials_folder(Settings.load().home)).put(name, key)
    emit(
        {"credential": name}, as_json, lambda: click.echo(f"kept as {name}; a route names it with --credential {name}")
    )


COMMANDS = (canary, promote, shadow, swap, hosted, credential)


def _controller() -> "ModelOpsClient":
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    return ModelOpsClient.from_settings(Settings.load())
