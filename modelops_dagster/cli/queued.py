"""The part of `modelops endpoints` that gives ASYNC endpoints work and reads their answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, progress_bar, table
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.clients.queues import Broker
    from modelops_dagster.domain.queues import QueueAddress, QueueState

_output = click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the answers here, one a line."
)


@click.command(name="submit")
@click.argument("name")
@click.option(
    "-f", "--file", "file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="OpenAI's batch format: one JSON object a line with custom_id, method, url and body.",
)  # fmt: skip
@_output
@click.option("--wait/--no-wait", default=True, show_default=True, help="Until all are answered; Ctrl-C leaves them.")
@json_option
@click.pass_context
def submit(ctx: click.Context, name: str, file: Path, output: Path | None, wait: bool, as_json: bool) -> None:
    """Put the requests of a file into the queue of the ASYNC endpoint NAME.

    Answers are kept for seven days: `modelops endpoints answers` reads them. Exits 1 when a request got an error.
    """
    from modelops_dagster.clients.batch_files import read_requests
    from modelops_dagster.clients.queues import submit as put
    from modelops_dagster.domain.queues import QueueNames, new_submission

    address = _queue_of(name)
    # the engine's name for its model is put in by whoever asks the engine
    requests = read_requests(file, alias=name)
    submission = new_submission()

    async def work() -> list[str]:
        async with _broker(address) as broker:
            await put(broker, QueueNames(name), submission, requests)
            click.echo(f"{counted(len(requests), 'request')} in the queue of {name} as {submission}", err=True)
            return await _read(broker, name, submission, len(requests), wait=True) if wait else []

    _tell(ctx, submission, len(requests), asyncio.run(work()), output, as_json)


@click.command(name="answers")
@click.argument("name")
@click.argument("submission")
@_output
@json_option
@click.pass_context
def answers(ctx: click.Context, name: str, submission: str, output: Path | None, as_json: bool) -> None:
    """The answers that SUBMISSION has by now; one for each custom_id. Exits 1 when a request got an error."""
    from modelops_dagster.domain.queues import checked_submission

    address = _queue_of(name)
    checked_submission(submission)

    async def work() -> list[str]:
        async with _broker(address) as broker:
            return await _read(broker, name, submission, None, wait=False)

    _tell(ctx, submission, None, asyncio.run(work()), output, as_json)


@click.command(name="queue")
@click.argument("name")
@json_option
def queue(name: str, as_json: bool) -> None:
    """What is in the queue of the ASYNC endpoint NAME: requests, and the dead letters, each with its reason."""
    from modelops_dagster.domain.queues import QueueNames

    address = _queue_of(name)

    async def work() -> "QueueState":
        async with _broker(address) as broker:
            return await broker.look(QueueNames(name))

    state = asyncio.run(work())

    def render() -> None:
        click.echo(f"{name}: requests {state.requests}, dead letters {len(state.dead_letters)}")
        if state.dead_letters:
            rows = [(letter.submission, letter.custom_id, letter.reason) for letter in state.dead_letters]
            table("", ("submission", "custom_id", "reason"), rows)

    emit(state, as_json, render)


COMMANDS = (submit, answers, queue)


def _queue_of(name: str) -> "QueueAddress":
    """Where the requests of an endpoint wait.

    Raises:
        UserError: there is no such endpoint, it takes no requests from a queue, or nobody says where the queue is.
    """
    from pydantic import ValidationError

    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.clients.kubernetes.site_file import read_site
    from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
    from modelops_dagster.domain.errors import InvalidSpec, NoSuchEndpoint
    from modelops_dagster.domain.queues import URL_VARIABLE, QueueAddress
    from modelops_dagster.settings import Settings, secret

    settings = Settings.load()
    status = ModelOpsClient.from_settings(settings).get(name)
    if status is None:
        raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
    if status.spec.async_deployment_type != "ASYNC":
        raise InvalidSpec(
            f"Endpoint {name} is SYNC and has no queue: `modelops batch submit` answers files of requests through the "
            "gateway.",
            field="async_deployment_type",
        )
    site = read_site(settings.site_file)
    url = secret(URL_VARIABLE) or (site.queue.url if site.queue is not None else None)
    if url is None:
        raise InvalidSpec(f"Nobody says where the queue is; set {URL_VARIABLE}, or queue in the site file.")
    try:
        return QueueAddress(url=url)
    except ValidationError as error:
        raise invalid_spec(error, URL_VARIABLE) from error


@contextlib.asynccontextmanager
async def _broker(address: "QueueAddress") -> AsyncIterator["Broker"]:
    from modelops_dagster.clients.queues import open_broker
    from modelops_dagster.domain.queues import PASSWORD_VARIABLE, USERNAME_VARIABLE
    from modelops_dagster.settings import secret

    broker = open_broker(address, secret(USERNAME_VARIABLE), secret(PASSWORD_VARIABLE))
    try:
        yield broker
    finally:
        await broker.close()


async def _read(broker: "Broker", name: str, submission: str, wanted: int | None, *, wait: bool) -> list[str]:
    """The answer lines, until there are as many as are wanted, or as are there."""
    from modelops_dagster.clients.queues import follow_answers
    from modelops_dagster.domain.queues import QueueNames

    lines: list[str] = []
    with progress_bar(submission, " requests") as show_progress:
        async with contextlib.aclosing(follow_answers(broker, QueueNames(name), submission, wait=wait)) as found:
            async for line in found:
                lines.append(line)
                if wanted is not None:
                    show_progress(len(lines), wanted)
                if len(lines) == wanted:
                    break
    return lines


def _tell(
    ctx: click.Context, submission: str, total: int | None, lines: list[str], output: Path | None, as_json: bool
) -> None:
    failed = sum(1 for line in lines if not _is_good(line))
    if output is not None:
        output.write_text("".join(line.rstrip("\n") + "\n" for line in lines))
    found = {"submission": submission, "total": total, "answered": len(lines) - failed, "failed": failed}
    told = f"{submission}: {len(lines) - failed} answered, {failed} failed" + (f", of {total}" if total else "")
    emit(found, as_json, lambda: click.echo(told))
    ctx.exit(1 if failed else 0)


def _is_good(line: str) -> bool:
    response = json.loads(line)["response"]
    return response is not None and response["status_code"] == 200
