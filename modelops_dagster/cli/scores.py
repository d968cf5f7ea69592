"""`modelops scores`: the score history as a table, or by SQL."""

from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.clients.scores import ScoreStore

LATEST = """
    select s.repo_id, s.lane, s.suite, s.metric, s.value, s.ci_low, s.ci_high, s.n, s.unit, s.n_samples, s.n_unscored,
           s.engine, s.commit_hash, s.evaluated_at, v.outcome as verdict, v.reason
    from latest_scores s
    left join latest_verdicts v on v.repo_id = s.repo_id and v.lane = s.lane and v.commit_hash = s.commit_hash
    where coalesce(s.repo_id = ?, true)
    order by s.repo_id, s.lane, s.suite, s.metric
"""


@click.command("scores")
@click.option("--repo-id", help="Only this model.")
@click.option("--sql", help="Run one SELECT over the history, read-only, and print its rows.")
@json_option
def command(repo_id: str | None, sql: str | None, as_json: bool) -> None:
    """The latest scores of every model, with 95 % intervals and the verdict; or any question in SQL.

    Tables: samples, scores, perf_requests, verdicts.
    Views: leaderboard, score_history, latest_scores, latest_verdicts.
    """
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.settings import Settings

    if sql is not None and repo_id is not None:
        raise click.UsageError("--repo-id and --sql exclude each other: put the model into the SQL.")
    store = ScoreStore(Settings.load().home / "scores")
    if sql is not None:
        _answer(store, sql, as_json)
    else:
        _latest(store, repo_id, as_json)


def _answer(store: "ScoreStore", sql: str, as_json: bool) -> None:
    columns, rows = store.query(sql)

    def render() -> None:
        table("", columns, [[_text(cell) for cell in row] for row in rows])
        click.echo(f"{len(rows)} row{'' if len(rows) == 1 else 's'}", err=True)

    # a join may name two columns alike; as JSON keys the second would swallow the first
    keys = [f"{name}_{columns[:i].count(name) + 1}" if name in columns[:i] else name for i, name in enumerate(columns)]
    emit([dict(zip(keys, row, strict=True)) for row in rows], as_json, render)


def _latest(store: "ScoreStore", repo_id: str | None, as_json: bool) -> None:
    from modelops_dagster.domain.errors import InvalidSpec
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
            table(
                f"{model} ({lane}) at {own[0]['commit_hash'][:12]} on {own[0]['engine']}",
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
            click.echo(own[0]["reason"] or "no verdict on this commit yet")

    emit(found, as_json, render)


def _text(cell: Any) -> Any:
    """Times without the noise of microseconds; everything else as it is."""
    return cell.isoformat(sep=" ", timespec="seconds") if hasattr(cell, "isoformat") and hasattr(cell, "hour") else cell
