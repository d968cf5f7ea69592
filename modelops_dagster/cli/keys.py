"""`modelops keys`: who may call models through the gateway."""

from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.key_display import show_created, show_listed, show_revoked
from modelops_dagster.cli.output import CommandGroup, json_option

if TYPE_CHECKING:
    from modelops_dagster.domain.gateway import KeyRecord


@click.group(name="keys", cls=CommandGroup)
def command() -> None:
    """Create, list and revoke gateway keys."""


@command.command(name="create")
@click.option("--alias", required=True, help="Who or what uses the key.")
@click.option("--tags", default="", help="Route tags it may reach, comma-separated, e.g. preview.")
@click.option("--models", default="", help="Aliases it may call, comma-separated. Default: all.")
@click.option("--team", help="Who is charged.")
@click.option("--budget-usd-per-day", type=click.FloatRange(min=0, min_open=True), help="USD of a UTC day.")
@click.option("--rpm", type=click.IntRange(min=1), help="Requests in any 60 seconds.")
@click.option("--tpm", type=click.IntRange(min=1), help="Tokens, in and out, in any 60 seconds.")
@click.option("--log-prompts", is_flag=True, help="Keep what is asked and answered in the call log. Default: never.")
@json_option
def create(alias: str, tags: str, models: str, as_json: bool, **policy: Any) -> None:
    """Make a key. It is shown once and kept as a digest only."""
    from modelops_dagster.clients.keys import KeyStore
    from modelops_dagster.settings import Settings

    store = KeyStore(Settings.load().home / "gateway")
    key, record = store.create(alias, tags=_names(tags), models=_names(models), **policy)
    show_created(key, record, f"for {record.alias}", "keys", as_json)


@command.command(name="list")
@json_option
def list_keys(as_json: bool) -> None:
    """Every key, revoked ones too, oldest first."""
    from modelops_dagster.clients.keys import KeyStore
    from modelops_dagster.settings import Settings

    def cells(r: "KeyRecord") -> tuple[str | None, ...]:
        prompts = "kept" if r.log_prompts else None
        return ", ".join(r.tags) or None, ", ".join(r.models) or "all", r.team, _limits(r), prompts

    records = KeyStore(Settings.load().home / "gateway").list()
    none_yet = "No keys yet: `modelops keys create --alias NAME` makes one."
    show_listed(records, ["tags", "models", "team", "limits", "prompts"], cells, none_yet, as_json)


@command.command(name="revoke")
@click.argument("key_id")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Take a key back. The gateway refuses it from the next call on."""
    from modelops_dagster.clients.keys import KeyStore
    from modelops_dagster.settings import Settings

    record = KeyStore(Settings.load().home / "gateway").revoke(key_id)
    show_revoked(record, as_json)


def _limits(record: "KeyRecord") -> str | None:
    budget = record.budget_usd_per_day and f"{record.budget_usd_per_day:g} USD a day"
    parts = [budget, record.rpm and f"{record.rpm} rpm", record.tpm and f"{record.tpm} tpm"]
    return ", ".join(str(part) for part in parts if part) or None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
