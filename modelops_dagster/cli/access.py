"""`modelops access`: who may see and change what the controller owns."""

import click

from modelops_dagster.cli.key_display import show_created, show_listed, show_revoked
from modelops_dagster.cli.output import CommandGroup, json_option


@click.group(name="access", cls=CommandGroup)
def command() -> None:
    """Create, list and revoke the controller's keys. Keys that call models are `modelops keys`.

    The home's own key, in secrets/controller.token, is an admin's.
    """


@command.command(name="create")
@click.option("--alias", required=True, help="Who or what uses the key.")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator", "admin"]),
    default="viewer",
    show_default=True,
    help="viewer reads; operator changes endpoints, routes and batches; admin also deletes and overrides verdicts.",
)
@json_option
def create(alias: str, role: str, as_json: bool) -> None:
    """Make a key. It is shown once and kept as a digest only."""
    from modelops_dagster.clients.keys import AccessStore
    from modelops_dagster.domain.access import Role
    from modelops_dagster.settings import Settings

    key, record = AccessStore(Settings.load().home).create(alias, Role(role))
    show_created(key, record, f"of {record.alias}, {record.role}", "access", as_json)


@command.command(name="list")
@json_option
def list_keys(as_json: bool) -> None:
    """Every key, revoked ones too, oldest first."""
    from modelops_dagster.clients.keys import AccessStore
    from modelops_dagster.settings import Settings

    none_yet = "No keys but the home's own: `modelops access create --alias NAME --role viewer` makes one."
    show_listed(AccessStore(Settings.load().home).list(), ["role"], lambda r: [r.role], none_yet, as_json)


@command.command(name="revoke")
@click.argument("key_id")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Take a key back. The controller refuses it from the next request on."""
    from modelops_dagster.clients.keys import AccessStore
    from modelops_dagster.settings import Settings

    record = AccessStore(Settings.load().home).revoke(key_id)
    show_revoked(record, as_json)
