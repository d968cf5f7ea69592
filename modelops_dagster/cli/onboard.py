"""`modelops onboard REPO_ID`: ask the running platform for the same chain the Hub sensor asks for."""

from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.beforehand import lane_option, require_on_hub, require_raw_weights
from modelops_dagster.cli.output import emit, json_option
from modelops_dagster.domain.lanes import RAW

if TYPE_CHECKING:
    from modelops_dagster.clients.dagster_api import DagsterClient, LogEvent, RunState


def follow_run(dagster: "DagsterClient", run_id: str) -> "RunState":
    """Follow a run on the terminal: its progress lines, and the sentence of a step that failed.

    Raises:
        UserError: the run failed; the message is the failed step's sentence.
        ModelOpsError: the run was cancelled, or its process died.
    """
    from modelops_dagster.cli.output import progress_line
    from modelops_dagster.domain.errors import ModelOpsError, UserError

    failures: list[tuple[str | None, str]] = []
    with progress_line("queued") as update:

        def on_event(event: "LogEvent") -> None:
            if event.failure and event.kind == "ExecutionStepFailureEvent":
                failures.append((event.step, event.failure))
            elif event.kind == "LogMessageEvent" and event.step:
                update(f"{event.step.replace('__', '/')}: {event.message}")
            elif event.kind == "ExecutionStepStartEvent" and event.step:
                update(event.step.replace("__", "/"))

        state = dagster.follow(run_id, on_event)
    if state.status == "SUCCESS":
        return state
    if failures:
        step, sentence = failures[-1]
        raise UserError(f"{(step or '').replace('__', '/')}: {sentence}")
    raise ModelOpsError(
        f"run {run_id} ended as {state.status} without a failed step: its process was killed or it was cancelled."
    )


@click.command(name="onboard")
@click.argument("repo_id")
@click.option("--ref", default="main", show_default=True, help="Branch, tag or 40-digit commit hash.")
@lane_option("Lane to run; a quantized one starts from the weights that `raw` fetched.")
@click.option("--accept", multiple=True, metavar="CODE", help="A preflight finding that is not to block this time.")
@click.option("--wait/--no-wait", default=False, help="Follow the run until its verdict.")
@json_option
@click.pass_context
def command(
    ctx: click.Context, repo_id: str, ref: str, lane: str, accept: tuple[str, ...], wait: bool, as_json: bool
) -> None:
    """Take one repository from the Hub to the gateway.

    The Hub is asked first, with your HF_TOKEN: when it has no such repository or does not answer, nothing is started.

    Exit code 0 when the model was promoted (or, without --wait, when the run was queued), 1 when the verdict is not a
    pass, 2 when you have to do something.
    """
    from modelops_dagster.clients.dagster_api import DagsterClient
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.domain.preflight import require_acceptable
    from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    require_repo_id(repo_id)
    require_acceptable(accept)
    dagster = DagsterClient(settings.dagster_url)
    problem = dagster.problem()
    if problem:
        from modelops_dagster.domain.errors import NotRunning

        raise NotRunning(
            f"Dagster at {settings.dagster_url} is not ready: {problem}; wait for `modelops up` to say ready."
        )
    if lane == RAW.name:
        require_on_hub(settings.hub_url, repo_id, ref)
    else:
        require_raw_weights(settings.home / "lineage", repo_id)
    dagster.add_model(repo_id)
    run_id = dagster.launch_onboard(repo_id, ref, accept) if lane == RAW.name else dagster.launch_lane(repo_id, lane)
    page = f"{settings.dagster_url}/runs/{run_id}"
    if not wait:
        emit({"repo_id": repo_id, "run_id": run_id, "url": page}, as_json, lambda: click.echo(f"queued: {page}"))
        return
    if not as_json:
        click.echo(f"run: {page}", err=True)
    follow_run(dagster, run_id)
    found = [v for v in ScoreStore(settings.home / "scores").latest_verdicts(repo_id) if v.lane == lane]
    verdict = found[0] if found else None
    labels = waiting_for_labels(verdict) if verdict else ""
    said = f"{verdict.reason}\n{labels}".strip() if verdict else "no verdict"
    emit(verdict, as_json, lambda: click.echo(said))
    ctx.exit(0 if verdict and verdict.outcome == "pass" else 1)
