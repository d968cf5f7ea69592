"""`modelops report`: a page about one model, or about all of them, to read, print and send."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, table
from modelops_dagster.cli.values import show_criteria
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelops_dagster.clients.reports.gathering import LaneReport, ModelReport
    from modelops_dagster.domain.gauntlet.rows import Row


@click.command("report")
@click.argument("repo_id", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write one HTML file here.")
@json_option
def command(repo_id: str | None, output: Path | None, as_json: bool) -> None:
    """What is known of REPO_ID and what to look at first; without one, the leaderboard.

    With -o the same as one HTML file that needs no network, with pictures, flips and lineage.
    """
    from modelops_dagster.clients.reports import gather_leaderboard, gather_model, leaderboard_page, model_page
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.summary import interval, number
    from modelops_dagster.settings import Settings

    store, now = ScoreStore(Settings.load().home / "scores"), datetime.now(UTC)
    report = gather_model(store, repo_id, now) if repo_id else None
    rows = [] if report else gather_leaderboard(store)
    if output is not None:
        try:
            output.write_text(model_page(report) if report else leaderboard_page(rows, now))
        except OSError as error:
            raise UserError(f"{output} cannot be written ({error.strerror}); name another file.") from error
        click.echo(f"wrote {output}", err=True)
        if not as_json:
            return

    def render() -> None:
        if report:
            _render(report)
            return
        if not rows:
            click.echo("No model has been evaluated yet: `modelops onboard REPO_ID --wait` takes one through.")
            return
        cells = [
            (
                r["rank"], r["repo_id"], r["lane"], r["verdict"], number(r["accuracy"]),
                interval(r["accuracy_low"], r["accuracy_high"]), number(r["refusal_rate"]),
                number(r["ttft_p95_ms"], "ms"), number(r["output_tokens_per_s"]),
                (r["quality_digest"] or "-").removeprefix("sha256:")[:8],
            )
            for r in rows
        ]  # fmt: skip
        columns = ["rank", "model", "lane", "verdict", "accuracy", "95 % interval", "refuses", "TTFT p95", "tokens/s"]
        table("", [*columns, "questions"], cells)

    emit(report if report else rows, as_json, render)


LOAD = ("loop", "level", "failed", "output tokens/s", "TTFT p95 ms", "end to end p95 ms")


def _load_cells(row: "Row") -> "tuple[object, ...]":
    """What `LOAD` names, of one level."""
    level = f"{row['level']} {'at a time' if row['loop'] == 'closed' else 'requests/s'}"
    times = (row["output_tokens_per_s"], row["ttft_p95_ms"], row["e2el_p95_ms"])
    return row["loop"], level, f"{row['failed']} of {row['requests']}", *(_shown(value) for value in times)


def _shown(value: float | None) -> str | None:
    from modelops_dagster.domain.summary import number

    return number(value)


def _spent(lane: "LaneReport") -> "Iterator[str]":
    """What calls through the gateway cost, and what the endpoint occupied."""
    calls, occupied = lane.calls, lane.occupancy
    if calls["calls"]:
        since, usd = calls["since"].strftime("%Y-%m-%d"), calls["usd"] or 0.0
        yield f"  {counted(calls['calls'], 'call')} since {since}, {calls['failed']:,} failed, ${usd:,.4f}"
    if occupied is not None:
        price = "" if occupied.usd is None else f", ${occupied.usd:,.2f} in all"
        evaluation, serving = (_shown(hours) for hours in occupied.hours)
        yield f"  {evaluation} {occupied.unit} for the evaluation, {serving} besides{price}"


def _render(report: "ModelReport") -> None:
    from modelops_dagster.domain.summary import interval, number

    for lane in report.lanes:
        verdict = lane.verdict
        click.echo(f"{verdict.repo_id}@{verdict.commit_hash[:12]}, lane {verdict.lane}: {verdict.reason}")
        for line in lane.look_first:
            click.echo(f"  look at: {line}")
        show_criteria(verdict)
        if lane.categories:
            cells = [
                (g["suite"], g["name"], g["n"], number(g["mean"]), interval(g["low"], g["high"]))
                for g in lane.categories
            ]
            table("by category, worst first", ["suite", "category", "n", "mean", "95 % interval"], cells)
        if lane.flips:
            flips = [(f["change"], f["suite"], f["sample_id"], f["category"]) for f in lane.flips]
            more = f", the first {len(flips)}" if lane.n_flips > len(flips) else ""
            table(
                f"{lane.n_flips} answered unlike the incumbent{more}", ["change", "suite", "sample", "category"], flips
            )
        if lane.load:
            table("under load", list(LOAD), [_load_cells(row) for row in lane.load])
        for line in _spent(lane):
            click.echo(line)
        table("", ["rests on", ""], list(lane.lineage))
