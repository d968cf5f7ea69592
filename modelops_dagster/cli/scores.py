"""`modelops scores`: the score history as a table, by SQL, and level by level of load."""

from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, table, table_or_records
from modelops_dagster.cli.score_files import export_run, import_files
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.gauntlet.load_times import Tool

TOOL_NAMES = ("modelops", "vllm", "guidellm", "aiperf")

LATEST = """
    select s.repo_id, s.lane, s.suite, s.metric, s.value, s.ci_low, s.ci_high, s.n, s.unit, s.n_samples, s.n_unscored,
           s.engine, s.commit_hash, s.evaluated_at, v.outcome as verdict, v.reason
    from latest_scores s
    left join latest_verdicts v on v.repo_id = s.repo_id and v.lane = s.lane and v.commit_hash = s.commit_hash
    where coalesce(s.repo_id = ?, true)
    order by s.repo_id, s.lane, s.suite, s.metric
"""


@click.group("scores", invoke_without_command=True, cls=CommandGroup)
@click.option("--repo-id", help="Only this model.")
@click.option("--sql", help="Run one SELECT over the history, read-only, and print its rows.")
@json_option
@click.pass_context
def command(ctx: click.Context, repo_id: str | None, sql: str | None, as_json: bool) -> None:
    """The latest scores of every model, with 95 % intervals and the verdict; or any question in SQL.

    Tables: samples, scores, perf_requests, judgements, labels, verdicts, rungs, registrations, backfills,
    gateway_requests.
    Views: leaderboard, score_history, latest_scores, latest_verdicts, regressions, flips, fallbacks, time_to_preview,
    spend, runs, instruments, items, dataset_items; docs/queries.md has twenty questions.
    """
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.settings import Settings

    if ctx.invoked_subcommand is not None:
        if sql is not None or repo_id is not None or as_json:
            raise click.UsageError(f"Options of `scores {ctx.invoked_subcommand}` go behind its name.")
        return
    if sql is not None and repo_id is not None:
        raise click.UsageError("--repo-id and --sql exclude each other: put the model into the SQL.")
    store = ScoreStore(Settings.load().home / "scores")
    if sql is not None:
        _answer(store, sql, as_json)
    else:
        _latest(store, repo_id, as_json)


@command.command("load")
@click.option("--run", "run_id", metavar="RUN_ID", help="Of this run; default: the newest that sent load.")
@click.option("--endpoint", help="Of this endpoint, where a run asked several.")
@click.option("--as", "tool", type=click.Choice(TOOL_NAMES), default="modelops", show_default=True, help="Whose terms.")
@json_option
def load(run_id: str | None, endpoint: str | None, tool: "Tool", as_json: bool) -> None:
    """Throughput and latency at each level of load, in our terms or in those of another load generator.

    TTFT, TPOT and ITL are defined differently by each; docs/performance.md has the formulas.
    """
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.clients.scores.answers import load_requests
    from modelops_dagster.domain.gauntlet.load_times import load_table
    from modelops_dagster.domain.policies import shown
    from modelops_dagster.settings import Settings

    found = load_requests(ScoreStore(Settings.load().home / "scores"), run_id, endpoint)
    shown_runs: list[dict[str, Any]] = [{**who, "as": tool, "levels": load_table(rows, tool)} for who, rows in found]

    def render() -> None:
        for run in shown_runs:
            levels = run["levels"]
            title = (
                f"{run['repo_id']} on {run['endpoint']}, suite {run['suite']}, run {run['run_id']}, as {tool} has it"
            )
            cells = [[shown(v) if isinstance(v, float) else v for v in line.values()] for line in levels]
            table(title, tuple(levels[0]), cells)

    emit(shown_runs, as_json, render)


command.add_command(export_run)
command.add_command(import_files)


def _answer(store: "ScoreStore", sql: str, as_json: bool) -> None:
    columns, rows = store.query(sql)

    def render() -> None:
        table_or_records(columns, [[_text(cell) for cell in row] for row in rows])
        click.echo(counted(len(rows), "row"), err=True)

    # a join may name two columns alike; as JSON keys the second would swallow the first
    keys = [f"{name}_{columns[:i].count(name) + 1}" if name in columns[:i] else name for i, name in enumerate(columns)]
    emit([dict(zip(keys, row, strict=True)) for row in rows], as_json, render)


def _latest(store: "ScoreStore", repo_id: str | None, as_json: bool) -> None:
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gauntlet.imported import IMPORTED
    from modelops_dagster.domain.summary import interval, number

    columns, rows = store.query(LATEST, [repo_id])
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    if repo_id and not found:
        raise InvalidSpec(
            f"there are no scores of {repo_id!r}; onboard it with `modelops onboard {repo_id}`.", field="repo_id"
        )

    def render() -> None:
        if not found:
            click.echo("There are no scores yet; `modelops onboard REPO_ID` lands the first.")
        for model, lane in dict.fromkeys((row["repo_id"], row["lane"]) for row in found):
            own = [row for row in found if (row["repo_id"], row["lane"]) == (model, lane)]
            first = next((row for row in own if row["engine"] != IMPORTED), own[0])
            table(
                f"{model} ({lane}) at {first['commit_hash'][:12]} on {first['engine']}",
                ("suite", "metric", "value", "95 % interval", "n", "unscored"),
                [
                    (
                        row["suite"],
                        row["metric"],
                        number(row["value"], row["unit"] or ""),
                        interval(row["ci_low"], row["ci_high"]),
                        row["n"],
                        f"{row['n_unscored']} of {row['n_samples']}",
                    )
                    for row in own
                ],
            )
            click.echo(first["reason"] or "no verdict on this commit yet")

    emit(found, as_json, render)


def _text(cell: Any) -> Any:
    """Times without the noise of microseconds; everything else as it is."""
    return cell.isoformat(sep=" ", timespec="seconds") if hasattr(cell, "isoformat") and hasattr(cell, "hour") else cell
