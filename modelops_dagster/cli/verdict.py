"""`modelops verdict`: the promotion decision, every number it rests on, and the same numbers computed again."""

from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.beforehand import lane_option
from modelops_dagster.cli.output import CommandGroup, emit, json_option, table
from modelops_dagster.cli.values import show_criteria
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.domain.verdicts import PairedResult, Verdict


@click.group("verdict", cls=CommandGroup)
def command() -> None:
    """The promotion decision and its numbers."""


@command.command("show")
@click.argument("subject", required=False, metavar="[REPO_ID | VERDICT_ID]")
@json_option
def show(subject: str | None, as_json: bool) -> None:
    """Print the last verdict of REPO_ID, lane by lane, or the one of an id; without either, the last of every model."""
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.settings import Settings

    store = ScoreStore(Settings.load().home / "scores")
    if subject and "/" not in subject:
        one = store.verdict(subject)
        found = [one] if one else []
        missing = f"there is no verdict {subject!r}; `modelops verdict show REPO_ID` prints the ids."
    else:
        found = store.latest_verdicts(subject)
        missing = f"there is no verdict on {subject!r}; onboard it with `modelops onboard {subject}`."
    if subject and not found:
        raise InvalidSpec(missing, field="subject")

    def render() -> None:
        if not found:
            click.echo("There is no verdict yet; `modelops onboard REPO_ID` ends in one.")
        elif subject is None:
            columns = ("model", "lane", "outcome", "reason", "decided (UTC)")
            rows = [(v.repo_id, v.lane, v.outcome, v.reason, f"{v.decided_at:%Y-%m-%d %H:%M}") for v in found]
            table("", columns, rows)
        else:
            for verdict in found:
                _render(verdict)

    emit(found, as_json, render)


def _render(verdict: "Verdict") -> None:
    from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels

    click.echo(verdict.reason)
    if labels := waiting_for_labels(verdict):
        click.echo(labels)
    click.echo(
        f"{verdict.repo_id}@{verdict.commit_hash[:12]}, lane {verdict.lane}, policy {verdict.policy}, "
        f"decided {verdict.decided_at:%Y-%m-%d %H:%M} UTC, verdict {verdict.verdict_id}"
        + (f", after the hold {verdict.reopens}" if verdict.reopens else "")
    )
    show_criteria(verdict)
    for result in verdict.comparisons:
        table(f"{result.suite}.{result.metric} against {result.incumbent.shown}", ("number", "value"), _numbers(result))


def _numbers(result: "PairedResult") -> list[tuple[str, object]]:
    from modelops_dagster.domain.policies import shown

    def number(value: float | None) -> str | None:
        return None if value is None else shown(value)

    how = "side by side" if result.incumbent.interleaved else f"stored {result.incumbent.asked_at:%Y-%m-%d %H:%M} UTC"
    return [
        ("asked", how),
        ("candidate / incumbent", f"{number(result.candidate)} / {number(result.incumbent_mean)}"),
        ("difference", number(result.difference)),
        ("one-sided bounds", f"{number(result.low)} to {number(result.high)} ({result.method})"),
        ("margin / detectable", f"{number(result.margin)} / {number(result.detectable)}"),
        ("pairs, clusters", f"{result.n} of {result.n_asked}, {result.groups}"),
        ("better / worse", f"{result.better} / {result.worse} (exact McNemar p = {result.mcnemar_p:.4f})"),
        ("harm", f"e-value {number(result.harm_e)}; 20 stops"),
        ("unscored", f"{100 * result.missing_candidate:.1f} % / {100 * result.missing_incumbent:.1f} %"),
        *((f"category {c.category}", f"{number(c.difference)} (n={c.n}, p={c.p:.4f})") for c in result.categories),
    ]


@command.command("replay")
@click.argument("verdict_id")
@json_option
@click.pass_context
def replay(ctx: click.Context, verdict_id: str, as_json: bool) -> None:
    """Compute a stored decision again from the stored samples.

    Exits 1 when any number comes out differently, and prints which.
    """
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.clients.scores.replays import replay as decide_again
    from modelops_dagster.settings import Settings

    stored, again, found = decide_again(ScoreStore(Settings.load().home / "scores"), verdict_id)
    shown = {
        "verdict_id": verdict_id,
        "stored": stored.outcome,
        "again": again.outcome,
        "mismatches": [m._asdict() for m in found],
    }

    def render() -> None:
        if found:
            table(f"verdict {verdict_id} does not come out again", ("number", "stored", "again"), found)
        else:
            same = counted(len(stored.criteria), "criterion", "criteria")
            click.echo(f"{again.reason}\nthe stored samples give the same {same} and numbers again")

    emit(shown, as_json, render)
    if found:
        ctx.exit(1)


@command.command("reopen")
@click.argument("repo_id")
@lane_option("The lane that is held.")
@click.option("--wait/--no-wait", default=True, help="Follow the run until its verdict.")
@json_option
@click.pass_context
def reopen(ctx: click.Context, repo_id: str, lane: str, wait: bool, as_json: bool) -> None:
    """Decide about a held model again, now that people have labelled its answers; nothing is asked.

    The new decision is a row of its own that names the hold, and both can be replayed. The sensor `reopened_holds` does
    the same by itself, once all the labels are there that `modelops label --plan` asks for. Exit code 0 when the model
    passes now (or, without --wait, when the run was queued), 1 when it does not, 2 when nothing can be reopened.
    """
    from modelops_dagster.cli.onboard import follow_run
    from modelops_dagster.clients.dagster_api import DagsterClient
    from modelops_dagster.clients.reopening import require_reopenable
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    require_repo_id(repo_id)
    store = ScoreStore(settings.home / "scores")
    held = require_reopenable(store, repo_id, lane)
    dagster = DagsterClient(settings.dagster_url)
    run_id = dagster.deciding(repo_id, lane) or dagster.launch_decision(repo_id, lane)
    page = f"{settings.dagster_url}/runs/{run_id}"
    if not wait:
        shown = {"reopens": held.verdict_id, "run_id": run_id, "url": page}
        emit(shown, as_json, lambda: click.echo(f"queued: {page}"))
        return
    follow_run(dagster, run_id)
    found = next((v for v in store.latest_verdicts(repo_id) if v.lane == lane), held)
    if found.verdict_id == held.verdict_id:
        click.echo("The labels so far change no number; `modelops label --plan` says which would.", err=True)
    emit(found, as_json, lambda: _render(found))
    ctx.exit(0 if found.outcome == "pass" else 1)


@command.command("policy")
@click.argument("name", required=False)
@json_option
def policy(name: str | None, as_json: bool) -> None:
    """What the policy NAME compares with an incumbent, and whether the suites can show its margins.

    Exits 2 when a margin is smaller than what the suite's samples can show.
    """
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.policies import load_policy
    from modelops_dagster.domain.verdicts import require_detectable_policy
    from modelops_dagster.domain.verdicts.pairing import power_of
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    found = load_policy(settings.eval_datasets / "policies", name or settings.policy)
    asked = {suite.name: suite.asked_of() for suite in load_suites(settings.eval_datasets) if suite.kind == "dataset"}
    rows: list[dict[str, Any]] = [
        {"suite": r.suite, "metric": r.metric, "tier": r.tier, "margin": r.margin, **power_of(r, asked[r.suite])}
        for r in found.against_incumbent
        if r.suite in asked
    ]

    def render() -> None:
        if not rows:
            click.echo(f"policy {found.name} compares nothing with an incumbent; its bars are absolute.")
        else:
            table(f"policy {found.name}", list(rows[0]), [list(row.values()) for row in rows])

    emit(rows, as_json, render)
    require_detectable_policy(found, asked)


@command.command("grader")
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@json_option
def grader(file: str | None, as_json: bool) -> None:
    """How the graders stand against people's labels, and in which categories their verdicts count.

    With FILE: what a grader's scores in it are worth, and their mean corrected by people's labels. It is CSV: `grade`
    and `human` (empty where nobody labelled) from 0 to 1, and `chance` of a label where answers were picked for labels
    on purpose.
    """
    from pathlib import Path

    from modelops_dagster.cli.calibrations import show_calibrations
    from modelops_dagster.clients.gradings import read_gradings
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.policies import shown
    from modelops_dagster.domain.statistics.graders import calibration

    if file is None:
        show_calibrations(as_json)
        return
    try:
        rows = calibration(read_gradings(Path(file)))
    except ValueError as error:
        raise InvalidSpec(f"{file}: {error}; label more answers, of both kinds.") from error
    found = [{"number": name, "value": e.value, "low": e.low, "high": e.high} for name, e in rows.items()]
    cells = [(name, shown(e.value), f"{shown(e.low)} to {shown(e.high)}") for name, e in rows.items()]
    emit(found, as_json, lambda: table("", ("number", "value", "95 % interval"), cells))
