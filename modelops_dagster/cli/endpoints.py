"""`modelops endpoints`: what the controller serves, and the switches."""

import sys
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli import endpoint_specs, manifests, monitoring, queued
from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_line, table

if TYPE_CHECKING:
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.domain.endpoints import EndpointStatus

_name = click.argument("name")
_wait = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is done.")
_timeout = click.option("--timeout", "timeout_s", default=900.0, show_default=True, help="Seconds to wait at most.")


def _client() -> "ModelOpsClient":
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    return ModelOpsClient.from_settings(Settings.load())


def _found(client: "ModelOpsClient", name: str) -> "EndpointStatus":
    from modelops_dagster.domain.errors import NoSuchEndpoint

    status = client.get(name)
    if status is None:
        raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
    return status


def _stands(status: "EndpointStatus") -> str:
    """The state as people read it."""
    state = str(status.state)
    if status.condition:
        state += f" ({status.condition})"
    if status.desired == "Stopped" and state != "Stopped":
        state += ", stopping"
    return state


def _show(status: "EndpointStatus") -> None:
    from modelops_dagster.domain.endpoint_spec.this_machine import notices_here

    spec = status.spec
    rows: list[tuple[str, object]] = [
        ("name", spec.name),
        ("state", _stands(status)),
        ("since", status.since.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("url", status.url),
        ("served model name", spec.served_model_name),
        ("engine", " ".join(x for x in (spec.engine, spec.variant, status.engine_version) if x)),
        ("key", spec.target and spec.target.api_endpoint.api_key_name),
        ("engine arguments", " ".join(spec.engine_args) or None),
        ("model", spec.model),
        ("checkpoint", spec.checkpoint or None),
        ("maximum context", spec.max_context and f"{spec.max_context} tokens"),
        ("start took", status.start_seconds and f"{status.start_seconds:.1f} s"),
        ("pid", status.pid),
        ("restarts", status.restarts),
        ("reason", status.reason),
        ("environment", f"{spec.deployment_tag}, {spec.visibility}, priority {spec.priority}"),
        ("price", None if spec.usd_per_hour is None else f"{spec.usd_per_hour:g} USD per replica and hour"),
        *(("noted only", notice) for notice in notices_here(spec)),
    ]
    table("", ("field", "value"), [row for row in rows if row[1] is not None])
    if len(status.replicas) > 1:
        replicas = [
            (r.index, f"{r.state} ({r.condition})" if r.condition else str(r.state), r.url, r.pid, r.restarts or None)
            for r in status.replicas
        ]
        table("", ("replica", "state", "url", "pid", "restarts"), replicas)
    if status.message:
        click.echo(status.message)
    if status.log_tail:
        click.echo(status.log_tail)


def _started(client: "ModelOpsClient", name: str, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Wait if asked to, print, and exit with 1 when the endpoint failed."""
    status = _found(client, name)
    if wait:
        with progress_line(f"{name}: {status.state}") as say:
            status = client.wait_ready(name, timeout_s, lambda s: say(f"{name}: {_stands(s)}"))
    emit(status, as_json, lambda: click.echo(f"{name}: {_stands(status)} {status.url or status.message}".rstrip()))
    if status.failed:
        sys.exit(1)


@click.group(cls=CommandGroup)
def command() -> None:
    """List, show, stop, start and delete endpoints."""


for part in (*endpoint_specs.COMMANDS, *monitoring.COMMANDS, *queued.COMMANDS, manifests.render):
    command.add_command(part)


@command.command("list")
@json_option
def list_endpoints(as_json: bool) -> None:
    """Every endpoint and how it stands."""
    statuses = _client().list()

    def render() -> None:
        if not statuses:
            click.echo("No endpoints yet; `modelops onboard REPO_ID` makes one.")
            return
        rows = [
            (
                s.spec.name,
                _stands(s),
                s.spec.engine or "(external)",
                s.spec.served_model_name,
                s.url,
                s.restarts or None,
            )
            for s in statuses
        ]
        table("", ("endpoint", "state", "engine", "served model name", "url", "restarts"), rows)

    emit({"endpoints": statuses}, as_json, render)


@command.command()
@_name
@json_option
def show(name: str, as_json: bool) -> None:
    """One endpoint: state, address, engine, and why it failed if it did."""
    status = _found(_client(), name)
    emit(status, as_json, lambda: _show(status))


@command.command()
@_name
@_wait
@_timeout
@json_option
def start(name: str, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Start a stopped or failed endpoint."""
    client = _client()
    client.start(name)
    _started(client, name, wait, timeout_s, as_json)


@command.command()
@_name
@_wait
@_timeout
@json_option
def restart(name: str, wait: bool, timeout_s: float, as_json: bool) -> None:
    """End the endpoint's engine and start a new one."""
    client = _client()
    client.restart(name)
    _started(client, name, wait, timeout_s, as_json)


@command.command()
@_name
@_wait
@json_option
def stop(name: str, wait: bool, as_json: bool) -> None:
    """End the endpoint's engine; the endpoint stays and can be started again."""
    client = _client()
    client.stop(name)
    if wait:
        with progress_line(f"{name}: stopping"):
            client.wait_stopped(name)
    status = _found(client, name)
    emit(status, as_json, lambda: click.echo(f"{name}: {_stands(status)}"))


@command.command()
@_name
@click.option("--confirm", required=True, metavar="NAME", help="The endpoint's name once more.")
@json_option
def delete(name: str, confirm: str, as_json: bool) -> None:
    """End the endpoint and forget it, logs included."""
    client = _client()
    client.delete(name, confirm)
    with progress_line(f"{name}: being deleted"):
        client.wait_deleted(name)
    emit({"deleted": name}, as_json, lambda: click.echo(f"{name}: deleted"))


@command.command()
@_name
@click.option("--tail", default=200, show_default=True, type=click.IntRange(0, 10_000), help="Lines from the end.")
@click.option("--follow", is_flag=True, help="Go on with what comes, over restarts, until Ctrl-C.")
@json_option
def logs(name: str, tail: int, follow: bool, as_json: bool) -> None:
    """What the endpoint's engine wrote."""
    if follow and as_json:
        raise click.UsageError("--follow writes lines as they come; leave --json out.")
    client = _client()
    if follow:
        for text in client.follow_logs(name, tail):
            click.echo(text, nl=False)
        return
    text = client.logs(name, tail)
    emit({"endpoint": name, "text": text}, as_json, lambda: click.echo(text))
