"""`modelops research`: commands that use accelerators while nothing more important needs them."""

import getpass
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_line, table

if TYPE_CHECKING:
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.domain.research import ResearchJob

_POLL_S = 0.5
_job = click.argument("job_id", metavar="JOB")


def _client() -> "ModelOpsClient":
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    return ModelOpsClient.from_settings(Settings.load())


def _show(job: "ResearchJob") -> None:
    import shlex

    rows: list[tuple[str, object]] = [
        ("job", job.job_id),
        ("state", job.state),
        ("owner", job.request.owner),
        ("command", shlex.join(job.request.command)),
        ("image", job.request.image),
        ("directory", job.request.directory or None),
        ("priority", job.request.priority),
        ("accelerators", f"{job.request.gpus}, has {', '.join(job.devices) or 'none'} now"),
        ("pid", job.pid),
        ("exit code", job.exit_code),
        ("attempts", len(job.attempts)),
        ("preempted", job.preemptions),
        ("made room for", "; ".join(a.by for a in job.attempts if a.by) or None),
        ("GPU-hours", f"{job.gpu_hours:.2f}, of which {job.lost_gpu_hours:.2f} lost"),
    ]
    table("", ("field", "value"), [row for row in rows if row[1] is not None])
    if job.message:
        click.echo(job.message)


def _variables(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} has no value; write NAME=VALUE.", ctx, param)
    return {name: value for name, _, value in pairs}


@click.group(name="research", cls=CommandGroup)
def command() -> None:
    """Run, list, show and cancel jobs that yield their accelerators to endpoints."""


@command.command(name="run", context_settings={"ignore_unknown_options": True})
@click.option("--gpus", default=1, show_default=True, type=click.IntRange(0, 1024), help="Accelerators it needs.")
@click.option(
    "--priority",
    type=click.Choice(["research", "preview"]),
    default="research",
    show_default=True,
    help="Whom it yields to: research to every endpoint that is not research, preview to production.",
)
@click.option("--owner", default=getpass.getuser, show_default="you", help="Who is told when it is preempted.")
@click.option("--grace", "grace_s", default=60.0, show_default=True, help="Seconds to write a checkpoint in.")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="Where it runs. Default: here; with --image, its own folder."
)
@click.option("--image", help="Container it runs in: needed where endpoints are on a cluster.")
@click.option("--cpu", help="vCPU of the container, such as 4 or 500m.")
@click.option("--memory", help="Memory of the container, such as 64Gi.")
@click.option("--nodegroup", "nodegroups", multiple=True, help="Nodes of a cluster it may be on; repeatable.")
@click.option("--max-hours", default=24.0, show_default=True, help="On a cluster it is ended then.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", callback=_variables, help="A variable.")
@click.option("--wait/--no-wait", default=False, show_default=True, help="Follow it to its end.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@json_option
def run(
    gpus: int,
    priority: str,
    owner: str,
    grace_s: float,
    directory: Path | None,
    image: str | None,
    cpu: str | None,
    memory: str | None,
    nodegroups: tuple[str, ...],
    max_hours: float,
    environment: dict[str, str],
    wait: bool,
    program: tuple[str, ...],
    as_json: bool,
) -> None:
    """Queue COMMAND; it starts when accelerators are free.

    When something more important needs them it gets SIGTERM, then after the grace period SIGKILL, is queued again and
    starts anew when there is room. It should save its work on SIGTERM, touch the file that MODELOPS_CHECKPOINT_FILE
    names whenever it has, and begin from there. Exits 1 when --wait is given and the job failed.
    """
    from pydantic import ValidationError

    from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
    from modelops_dagster.domain.research import JobRequest

    fields = {
        "command": program,
        "owner": owner,
        "gpus": gpus,
        "priority": priority,
        "directory": _directory(directory, image),
        "image": image,
        "cpu": cpu,
        "memory": memory,
        "nodegroups": nodegroups,
        "max_hours": max_hours,
        "environment": environment,
        "grace_s": grace_s,
    }
    try:
        request = JobRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_spec(error) from error
    client = _client()
    job = client.submit_job(request)
    if wait:
        job = _follow(client, job)
    emit(job, as_json, lambda: click.echo(f"{job.job_id}: {job.state} {job.message}".rstrip()))
    if wait and job.state != "Succeeded":
        sys.exit(1)


def _directory(given: Path | None, image: str | None) -> str:
    """Of this machine, or of the container, whose paths mean nothing here."""
    if image is not None:
        return str(given or "")
    return str((given or Path()).resolve())


def _follow(client: "ModelOpsClient", job: "ResearchJob") -> "ResearchJob":
    from modelops_dagster.domain.research import OVER

    with progress_line(f"{job.job_id}: {job.state}") as say:
        while job.state not in OVER:
            time.sleep(_POLL_S)
            job = client.get_job(job.job_id)
            say(f"{job.job_id}: {job.state} {job.message}".rstrip())
    return job


@command.command(name="list")
@json_option
def list_jobs(as_json: bool) -> None:
    """Every job, newest first."""
    jobs = _client().list_jobs()

    def render() -> None:
        if not jobs:
            click.echo("No jobs yet; `modelops research run --gpus 1 -- COMMAND` queues one.")
            return
        rows = [
            (
                j.job_id,
                j.state,
                j.request.owner,
                j.request.gpus,
                j.preemptions or None,
                f"{j.lost_gpu_hours:.2f}" if j.preemptions else None,
                j.message,
            )
            for j in jobs
        ]
        table("", ("job", "state", "owner", "GPUs", "preempted", "GPU-hours lost", "message"), rows)

    emit({"jobs": jobs}, as_json, render)


@command.command()
@_job
@json_option
def show(job_id: str, as_json: bool) -> None:
    """One job: what it waits for, what it has, what preemption cost it."""
    job = _client().get_job(job_id)
    emit(job, as_json, lambda: _show(job))


@command.command()
@_job
@json_option
def cancel(job_id: str, as_json: bool) -> None:
    """End a job, or take it out of the queue."""
    client = _client()
    job = _follow(client, client.cancel_job(job_id))
    emit(job, as_json, lambda: click.echo(f"{job.job_id}: {job.state} {job.message}".rstrip()))


@command.command()
@_job
@click.option("--tail", default=200, show_default=True, type=click.IntRange(0, 10_000), help="Lines from the end.")
@json_option
def logs(job_id: str, tail: int, as_json: bool) -> None:
    """What a job wrote, over all its attempts."""
    text = _client().job_logs(job_id, tail)
    emit({"job": job_id, "text": text}, as_json, lambda: click.echo(text))
