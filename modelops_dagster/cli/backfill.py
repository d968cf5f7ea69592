"""`modelops backfill`: one suite asked of many models, as the job `backfill` of the Dagster UI does it."""

import click

from modelops_dagster.cli.output import emit, json_option, progress_line


@click.command("backfill")
@click.option("--suite", required=True, help="The suite to ask, as it is now.")
@click.option("--models", multiple=True, metavar="REPO_ID", help="Only these; may be repeated. Default: all.")
@click.option("--lane", "lanes", multiple=True, help="Only these lanes; may be repeated. Default: all.")
@click.option("--at-once", type=click.IntRange(1, 256), default=4, show_default=True, help="Models asked at once.")
@click.option(
    "--awake", type=click.IntRange(1, 64), default=1, show_default=True, help="Sleeping endpoints woken at once."
)
@click.option("--again", is_flag=True, help="Ask also models that have scores of this very suite.")
@click.option("--wait", is_flag=True, help="Follow the run until it has ended.")
@json_option
def command(
    suite: str,
    models: tuple[str, ...],
    lanes: tuple[str, ...],
    at_once: int,
    awake: int,
    again: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Ask SUITE of every model that was ever served, in one run.

    Running endpoints are asked first, sleeping ones woken one by one and put back. A model whose endpoint is gone is
    scored again from its stored answers where only scoring changed, else marked unreachable in the score history. Run
    it again after it was stopped: what is done is not done again.
    """
    from modelops_dagster.clients.dagster_api import DagsterClient
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    load_suites(settings.eval_datasets, [suite])  # else told by the run, minutes later
    config = {
        "suite": suite, "models": [require_repo_id(m) for m in models], "lanes": list(lanes), "at_once": at_once,
        "awake": awake, "again": again,
    }  # fmt: skip
    dagster = DagsterClient(settings.dagster_url)
    run_id = dagster.launch_job("backfill", {"ops": {"backfill_suite": {"config": config}}})
    url = f"{settings.dagster_url}/runs/{run_id}"
    if not wait:
        emit({"run_id": run_id, "url": url}, as_json, lambda: click.echo(f"queued: {url}"))
        return
    with progress_line(f"{suite}: waiting for the run") as say:
        state = dagster.follow(run_id, lambda event: say(event.failure or event.message) if event.step else None)
    sql = "select outcome, count(*) from backfills where run_id = ? group by outcome order by outcome"
    counts = dict(ScoreStore(settings.home / "scores").query(sql, [run_id])[1])  # of all tries
    told = {"run_id": state.run_id, "url": url, "status": state.status, "outcomes": counts}
    shown = ", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "nothing was left to do"
    emit(told, as_json, lambda: click.echo(f"{state.status.lower()}: {shown}"))
    if state.status != "SUCCESS":
        click.get_current_context().exit(1)
