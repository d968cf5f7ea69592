"""How graders stand against people: the table of `modelops verdict grader`, and the plan of `modelops label --plan`."""

from statistics import median
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import emit, table

if TYPE_CHECKING:
    from modelops_dagster.domain.gauntlet.admission import Interval

USUAL_SECONDS = 45.0
"""Of one label, where nobody has labelled yet."""


def show_calibrations(as_json: bool) -> None:
    """Every grader in every category: errors, agreement, and whether its verdicts count."""
    from modelops_dagster.clients.calibrations import calibrations
    from modelops_dagster.clients.gauntlet.graders import load_graders
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.labels import Graded, read_labels
    from modelops_dagster.clients.preferences import run_preferences
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.labels import last_words
    from modelops_dagster.domain.statistics.graders import alpha
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    rule = load_graders(settings.home, settings.eval_datasets).admission
    store = ScoreStore(settings.home / "scores")
    found = calibrations(store, Graded(load_suites(settings.eval_datasets)), rule)

    preferred, words = run_preferences(store), list(last_words(read_labels(store)).values())
    twice, agree = sum(len(said) > 1 for said in words), alpha(words)

    def render() -> None:
        if not found:
            click.echo("No grader has judged anything yet; docs/grading.md says how to name one.")
            return
        columns = ("grader", "category", "labels", "sensitivity", "specificity", "kappa", "flips", "mean", "corrected")
        rows = [
            (
                c.grader,
                c.category,
                f"{c.labels} of {c.answers}",
                *(_cell(x) for x in (c.sensitivity, c.specificity, c.kappa)),
                None if c.flip_rate is None else f"{c.flip_rate:.2f}",
                None if c.mean is None else f"{c.mean:.2f}",
                _cell(c.corrected),
            )
            for c in found
        ]
        table("", columns, rows)
        for c in found:
            click.echo(f"{c.grader} for {c.category}: {'admitted' if c.admitted else f'advisory, because {c.why}'}")
        if twice:
            said = "cannot be told from chance" if agree is None else f"have an alpha of {agree:.2f}"
            click.echo(f"people: {twice} answers were labelled by several, who {said}")
        for one in preferred:
            click.echo(f"{one.repo_id} ({one.lane}), run {one.run_id}: {one.found.shown}")

    shown = {
        "calibrations": [c.model_dump(mode="json") for c in found],
        "people": {"labelled_by_several": twice, "alpha": agree},
        "preferences": [{**one._asdict(), "found": one.found.model_dump(mode="json")} for one in preferred],
    }
    emit(shown, as_json, render)


def _cell(found: "Interval | None") -> str | None:
    return None if found is None else f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def show_plan(repo_id: str | None, as_json: bool) -> None:
    """What labels would bring about: for each category, and for each model that a hold keeps back."""
    from modelops_dagster.cli.label import why_nothing
    from modelops_dagster.clients.calibrations import calibrations
    from modelops_dagster.clients.gauntlet.graders import load_graders
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.labels import Graded, read_labels
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.verdicts.label_plan import admission_needs, needs_of_hold
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    store, suites = ScoreStore(settings.home / "scores"), load_suites(settings.eval_datasets)
    rule = load_graders(settings.home, settings.eval_datasets).admission
    found = calibrations(store, Graded(suites), rule)
    groups = {s.name: s.groups_to_grade for s in suites if s.groups_to_grade}
    every = sorted({group for found_groups in groups.values() for group in found_groups})
    held = [v for v in store.latest_verdicts(repo_id) if v.outcome == "hold"]
    holds = [(v, needs_of_hold(v, groups, found, rule)) for v in held]
    seconds = [label.seconds for label in read_labels(store) if label.seconds]
    each = median(seconds) if seconds else USUAL_SECONDS
    shown: dict[str, Any] = {
        "seconds_per_label": each,
        "categories": [need.model_dump() for need in admission_needs(every, found, rule)],
        "holds": [
            {"verdict_id": v.verdict_id, "repo_id": v.repo_id, "lane": v.lane, "needs": [n.model_dump() for n in needs]}
            for v, needs in holds
        ],
    }

    def render() -> None:
        if not every:
            click.echo(f"There is nothing to label: {why_nothing(suites, settings)}")
        for need in shown["categories"]:
            click.echo(need["said"] + _time(need["labels"], each))
        for hold in shown["holds"]:
            click.echo(f"{hold['repo_id']} ({hold['lane']}) is held by verdict {hold['verdict_id']}:")
            for need in hold["needs"]:
                click.echo(f"  {need['said']}{_time(need['labels'], each)}")
            if not hold["needs"]:
                click.echo("  No label changes that; `modelops verdict show` says what would.")

    emit(shown, as_json, render)


def _time(labels: int | None, seconds: float) -> str:
    return f" That takes one person about {max(1, round(labels * seconds / 60))} min." if labels else ""
