"""The part of `modelops endpoints` that reads specs: create, and the schema they are checked against."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, progress_line

if TYPE_CHECKING:
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.clients.endpoint_documents import SpecResolver
    from modelops_dagster.clients.platform_state import PlatformState
    from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus

_files = click.option(
    "-f", "--file", "files", multiple=True, required=True, metavar="SPEC", type=click.Path(path_type=Path),
    help="A YAML or JSON file with one spec or, between ---, several; repeatable.",
)  # fmt: skip


def open_client() -> "ModelOpsClient":
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    return ModelOpsClient.from_settings(Settings.load())


def open_resolver() -> "SpecResolver":
    """Finds checkpoints and engines of this home."""
    from modelops_dagster.clients.endpoint_documents import SpecResolver
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    engines = EngineRegistry.from_settings(settings)
    return SpecResolver(settings.home / "checkpoints", engines, settings.accelerator)


@click.command()
@_files
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until each answers.")
@click.option("--timeout", "timeout_s", default=900.0, show_default=True, help="Seconds to wait for each at most.")
@click.option("--dry-run", is_flag=True, help="Only print the complete specs.")
@json_option
def create(files: tuple[Path, ...], wait: bool, timeout_s: float, dry_run: bool, as_json: bool) -> None:
    """Create the endpoint of every spec in the files; what they leave out is found. Exits 1 when one failed."""
    from modelops_dagster.clients.endpoint_documents import resolved
    from modelops_dagster.clients.platform_state import as_yaml
    from modelops_dagster.domain.endpoint_spec.this_machine import refusal_here
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.settings import Settings

    specs = list(resolved(open_resolver(), files))
    if dry_run:
        told = [s.model_dump(mode="json", exclude_defaults=True) for s in specs]
        emit(specs, as_json, lambda: click.echo(as_yaml(told), nl=False))
        return
    client = open_client()
    here = Settings.load().backend == "machine"
    for spec in specs:
        refusal = refusal_here(spec) if here else None
        if refusal is not None:
            raise refusal
        if client.get(spec.name) is not None:
            raise InvalidSpec(
                f"There is an endpoint {spec.name!r} already; choose another name, or delete it first with "
                f"`modelops endpoints delete {spec.name} --confirm {spec.name}`.",
                field="name",
            )
    statuses = [created(client, spec) for spec in specs]
    settle(client, statuses, wait, timeout_s, as_json)


def created(client: "ModelOpsClient", spec: "EndpointSpec") -> "EndpointStatus":
    """Ask for the endpoint, and say what this machine does not do for it."""
    status = client.create_endpoint(spec)
    for notice in _notices(spec):
        click.echo(notice, err=True)
    return status


def _notices(spec: "EndpointSpec") -> list[str]:
    from modelops_dagster.domain.endpoint_spec.this_machine import notices_here
    from modelops_dagster.settings import Settings

    if Settings.load().backend != "machine":
        return []
    return [f"{spec.name}: {notice}" for notice in notices_here(spec)]


def settle(
    client: "ModelOpsClient", statuses: "list[EndpointStatus]", wait: bool, timeout_s: float, as_json: bool
) -> None:
    """Wait for each if asked to, print them, and exit with 1 when one failed."""
    if wait:
        with progress_line("waiting") as say:
            names = [s.spec.name for s in statuses]
            statuses = [client.wait_ready(n, timeout_s, lambda s: say(f"{s.spec.name}: {s.state}")) for n in names]

    def render() -> None:
        for status in statuses:
            click.echo(f"{status.spec.name}: {status.state} {status.url or status.message}".rstrip())

    emit({"endpoints": statuses}, as_json, render)
    if any(s.failed for s in statuses):
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option("-o", "assignments", multiple=True, required=True, metavar="FIELD=VALUE", help="A new value; repeatable.")
@click.option("--restart", is_flag=True, help="End its engine and start another where a change needs that.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="After a restart, wait until it answers.")
@click.option("--timeout", "timeout_s", default=900.0, show_default=True, help="Seconds to wait at most.")
@json_option
def update(name: str, assignments: tuple[str, ...], restart: bool, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Change fields of an endpoint's spec.

    For example -o max_replicas=3 -o autoscale_config.cooldown_period=600. Replicas, scaling, priority, price and the
    like change while it runs; engine, arguments, hardware and visibility need it Stopped, or --restart.
    """
    from modelops_dagster.domain.endpoint_spec.changes import assigned
    from modelops_dagster.domain.errors import Conflict, NoSuchEndpoint, UserError

    client = open_client()
    status = client.get(name)
    if status is None:
        raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
    changes = assigned(status.spec, dict(_assignment(text) for text in assignments))
    try:
        status = client.update_endpoint(name, restart=restart, **changes)
    except Conflict as error:
        raise UserError(error.sentence) from error
    for notice in _notices(status.spec):
        click.echo(notice, err=True)
    settle(client, [status], wait and restart and status.desired == "Running", timeout_s, as_json)


def _assignment(text: str) -> tuple[str, object]:
    import yaml

    from modelops_dagster.domain.errors import InvalidSpec

    field, equals, value = text.partition("=")
    if not equals or not field.strip():
        raise InvalidSpec(f"-o {text!r} is not FIELD=VALUE, e.g. max_replicas=3.", field="-o")
    try:
        return field.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return field.strip(), value


@click.command()
@click.option("--complete", is_flag=True, help="Of the complete spec, as the REST API takes it.")
def schema(complete: bool) -> None:
    """Print the JSON schema of spec files, for editors and other programs."""
    from modelops_dagster.domain.endpoint_spec import EndpointSpec
    from modelops_dagster.domain.endpoint_spec.document import EndpointDocument

    kind = EndpointSpec if complete else EndpointDocument
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
    click.echo(json.dumps(document, indent=2))


@click.command()
@json_option
def export(as_json: bool) -> None:
    """Print what this system is told to be, as YAML for `apply`: endpoints, hosted models and routes, no keys."""
    from modelops_dagster.clients.platform_state import as_yaml

    documents = _open_state().export()
    emit(documents, as_json, lambda: click.echo(as_yaml(documents), nl=False))


@click.command()
@_files
@click.option("--timeout", "timeout_s", default=900.0, show_default=True, help="Seconds to wait for each endpoint.")
@click.option("--no-wait", is_flag=True, help="Do not wait for endpoints; routes to new ones need their addresses.")
@json_option
def apply(files: tuple[Path, ...], timeout_s: float, no_wait: bool, as_json: bool) -> None:
    """Make what the files say true; what they do not name stays as it is. Exits 1 when an endpoint failed."""
    state = _open_state()
    wanted = state.read(files)
    with progress_line("applying") as say:
        done = list(state.apply(wanted, timeout_s=0.0 if no_wait else timeout_s, say=say))

    def render() -> None:
        for item in done:
            click.echo(f"{item.kind} {item.name}: {item.done}" + (f", and failed: {item.note}" if item.note else ""))

    emit([item._asdict() for item in done], as_json, render)
    if any(item.note for item in done):
        sys.exit(1)


def _open_state() -> "PlatformState":
    from modelops_dagster.cli.rollout import open_rollout
    from modelops_dagster.clients.platform_state import PlatformState
    from modelops_dagster.settings import Settings

    return PlatformState(Settings.load().home, open_client(), open_rollout(), open_resolver())


COMMANDS = (create, update, schema, export, apply)
