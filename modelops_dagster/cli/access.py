"""`modelops access`: who may see and change what the controller owns."""

import click

from modelops_dagster.cli.output import emit, json_option, table

HIDDEN = {"key_sha256"}


@click.group(name="access")
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

    def render() -> None:
        click.echo(key)
        click.echo(
            f"key {record.key_id} of {record.alias}, {record.role}: shown once, keep it. It takes effect at once.\n"
            f"revoke it with: modelops access revoke {record.key_id}",
            err=True,
        )

    emit({"key": key, **record.model_dump(mode="json", exclude=HIDDEN)}, as_json, render)


@command.command(name="list")
@json_option
def list_keys(as_json: bool) -> None:
    """Every key, revoked ones too, oldest first."""
    from modelops_dagster.clients.keys import AccessStore
    from modelops_dagster.settings import Settings

    records = AccessStore(Settings.load().home).list()

    def render() -> None:
        if not records:
            click.echo("No keys but the home's own: `modelops access create --alias NAME --role viewer` makes one.")
            return
        rows = [
            (
                r.key_id,
                r.alias,
                r.role,
                f"{r.created_at:%Y-%m-%d %H:%M}",
                f"{r.revoked_at:%Y-%m-%d %H:%M}" if r.revoked_at else None,
            )
            for r in records
        ]
        table("", ["id", "alias", "role", "created", "revoked"], rows)

    emit([r.model_dump(mode="json", exclude=HIDDEN) for r in records], as_json, render)


@command.command(name="revoke")
@click.argument("key_id")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Take a key back. The controller refuses it from the next request on."""
    from modelops_dagster.clients.keys import AccessStore
    from modelops_dagster.settings import Settings

    record = AccessStore(Settings.load().home).revoke(key_id)
    emit(
        record.model_dump(mode="json", exclude=HIDDEN),
        as_json,
        lambda: click.echo(f"key {record.key_id} of {record.alias} is revoked"),
    )
