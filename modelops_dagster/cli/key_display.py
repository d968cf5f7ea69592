"""How keys are shown, of the gateway and of the controller alike: a new one once, and never what is kept of it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelops_dagster.cli.output import emit, table

if TYPE_CHECKING:
    from modelops_dagster.domain.access import AccessKey
    from modelops_dagster.domain.gateway import KeyRecord

K = TypeVar("K", bound="AccessKey | KeyRecord")
_HIDDEN = {"key_sha256"}


def public(record: "AccessKey | KeyRecord") -> dict[str, Any]:
    """What may be told of a key."""
    return record.model_dump(mode="json", exclude=_HIDDEN)


def minute(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%d %H:%M}" if at else None


def show_created(key: str, record: "AccessKey | KeyRecord", whose: str, group: str, as_json: bool) -> None:
    """The key itself on stdout, what to do with it beside that.

    Args:
        whose: who or what the key is of, as `for pipeline`.
        group: of commands that the key is revoked with.
    """

    def render() -> None:
        click.echo(key)
        click.echo(
            f"key {record.key_id} {whose}: shown once, keep it. It takes effect at once.\n"
            f"revoke it with: modelops {group} revoke {record.key_id}",
            err=True,
        )

    emit({"key": key, **public(record)}, as_json, render)


def show_listed(
    records: "Sequence[K]",
    columns: Sequence[str],
    cells: "Callable[[K], Sequence[object]]",
    none_yet: str,
    as_json: bool,
) -> None:
    """Every key, with its id and alias first and its dates last.

    Args:
        columns: what is between them, as `cells` gives it of a key.
        none_yet: the sentence where there are none.
    """

    def render() -> None:
        if not records:
            click.echo(none_yet)
            return
        rows = [(r.key_id, r.alias, *cells(r), minute(r.created_at), minute(r.revoked_at)) for r in records]
        table("", ["id", "alias", *columns, "created", "revoked"], rows)

    emit([public(r) for r in records], as_json, render)


def show_revoked(record: "AccessKey | KeyRecord", as_json: bool) -> None:
    emit(public(record), as_json, lambda: click.echo(f"key {record.key_id} of {record.alias} is revoked"))
