"""`modelops batch`: many requests from a file, answered after everybody else's."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_bar, table

if TYPE_CHECKING:
    from modelops_dagster.clients.batches import BatchStore
    from modelops_dagster.domain.batch import Batch

POLL_S = 0.5


@click.group(name="batch", cls=CommandGroup)
def command() -> None:
    """Submit, follow and cancel batches; a running gateway answers them."""


@command.command(name="submit")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--alias", help="The model of every request. Default: what each line's body names.")
@click.option("--key", "key_id", help="Id of the key it is charged to. Default: the only valid one.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Copy the answers here at the end.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Follow it to the end; Ctrl-C leaves it going.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context,
    file: Path,
    alias: str | None,
    key_id: str | None,
    output: Path | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Submit FILE: OpenAI's batch format, one JSON object a line with custom_id, method, url and body.

    Exits 1 when a request got an error instead of an answer.
    """
    from modelops_dagster.clients.batch_files import read_requests, submit_requests

    store = _store()
    batch = submit_requests(store, _key(key_id), file.name, read_requests(file, alias))
    if wait:
        batch = _follow(store, batch)
        if output is not None:
            answers = store.file_path(batch.output_file_id)
            output.write_bytes(answers.read_bytes() if answers.is_file() else b"")
    emit(batch, as_json, lambda: _show(store, batch))
    ctx.exit(1 if batch.failed or batch.state in ("cancelled", "expired") else 0)


@command.command(name="list")
@json_option
def list_batches(as_json: bool) -> None:
    """Every batch, newest first."""
    batches = _store().list()

    def render() -> None:
        if not batches:
            click.echo("No batches yet: `modelops batch submit FILE --alias ALIAS` makes one.")
            return
        rows = [
            (b.batch_id, b.state, b.total, b.completed, b.failed, b.key_id, f"{b.created_at:%Y-%m-%d %H:%M}")
            for b in batches
        ]
        table("", ["id", "state", "requests", "answered", "failed", "key", "created"], rows)

    emit(batches, as_json, render)


@command.command(name="show")
@click.argument("batch_id")
@json_option
def show(batch_id: str, as_json: bool) -> None:
    """How far a batch is, and where its answers are."""
    store = _store()
    batch = _found(store, batch_id)
    emit(batch, as_json, lambda: _show(store, batch))


@command.command(name="cancel")
@click.argument("batch_id")
@json_option
def cancel(batch_id: str, as_json: bool) -> None:
    """Ask for no more answers; those that are there stay."""
    batch = _store().cancel(batch_id)
    emit(batch, as_json, lambda: click.echo(f"{batch.batch_id} is {batch.state}"))


def _store() -> "BatchStore":
    from modelops_dagster.clients.batches import BatchStore
    from modelops_dagster.settings import Settings

    store = BatchStore(Settings.load().home / "gateway")
    store.prepare()
    return store


def _found(store: "BatchStore", batch_id: str) -> "Batch":
    from modelops_dagster.domain.errors import InvalidSpec

    batch = store.get(batch_id)
    if batch is None:
        raise InvalidSpec(f"there is no batch {batch_id!r}; `modelops batch list` shows them.", field="batch_id")
    return batch


def _key(key_id: str | None) -> str:
    """The id of the key that is charged."""
    from modelops_dagster.clients.keys import KeyStore
    from modelops_dagster.settings import Settings

    return KeyStore(Settings.load().home / "gateway").charged(key_id).key_id


def _follow(store: "BatchStore", batch: "Batch") -> "Batch":
    with progress_bar(f"batch {batch.batch_id}", " requests") as show_progress:
        while batch.active:
            show_progress(batch.completed + batch.failed, batch.total)
            time.sleep(POLL_S)
            batch = _found(store, batch.batch_id)
        show_progress(batch.completed + batch.failed, batch.total)
    return batch


def _show(store: "BatchStore", batch: "Batch") -> None:
    click.echo(f"{batch.batch_id}: {batch.state}, {batch.completed} answered, {batch.failed} failed, of {batch.total}")
    for what, file_id, lines in (
        ("answers", batch.output_file_id, batch.completed),
        ("errors", batch.error_file_id, batch.failed),
    ):
        if lines:
            click.echo(f"{what}: {store.file_path(file_id)}")
