"""`modelops datasets`: whether samples can be trusted, and what they can show."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, table
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.domain.gauntlet.suite import Suite

DISCORDANCES = (0.05, 0.10, 0.20)
USUAL_DISCORDANCE = 0.10
USUAL_ICC = 0.2
MARGINS = (0.03, 0.05, 0.10)


@click.group(name="datasets", cls=CommandGroup)
def command() -> None:
    """Check and describe the samples that suites ask."""


@command.command("lint")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]")
@json_option
@click.pass_context
def lint_command(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Look for faults in every suite and samples file of DIR (default: the platform's own); exits 1 when there is one.

    What cannot be read, duplicates and near duplicates, clusters that lie in two splits, targets no answer can reach,
    scorers that let nonsense pass, must-refuse samples without a benign twin, missing canaries. No model is asked.
    """
    from modelops_dagster.clients.gauntlet.linting import lint_folder
    from modelops_dagster.clients.gauntlet.sandbox import run_code
    from modelops_dagster.settings import Settings

    counts, faults = lint_folder(folder or Settings.load().eval_datasets, run_code)
    emit({"sets": counts, "faults": faults}, as_json, lambda: _show(counts, faults))
    if faults:
        ctx.exit(1)


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """Tell the suites that are there, and the smallest difference between two models that each can show."""
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.settings import Settings

    suites = load_suites(Settings.load().eval_datasets)
    known = {suite.name: _described(suite, USUAL_ICC) for suite in suites if suite.kind == "dataset"}
    rows = [
        {
            "suite": suite.name,
            "kind": suite.kind,
            "asked": known[suite.name]["asked"] if suite.name in known else None,
            "detectable": known[suite.name]["detectable"][str(USUAL_DISCORDANCE)] if suite.name in known else None,
            "title": suite.title,
        }
        for suite in suites
    ]

    def render() -> None:
        cells = [(r["suite"], r["kind"], r["asked"], _share(r["detectable"]), r["title"]) for r in rows]
        table("", ("suite", "kind", "samples", "smallest difference found", "title"), cells)
        click.echo(f"The difference is of two models that differ on {USUAL_DISCORDANCE:.0%} of the samples.")

    emit(rows, as_json, render)


def _share(value: Any) -> str | None:
    return None if value is None else f"{value:.1%}"


def _show(counts: dict[str, int], faults: "list[Any]") -> None:
    if faults:
        table("", ("rule", "fault"), [(f.rule, f.said) for f in faults])
    total = ", ".join(f"{name} {n}" for name, n in counts.items())
    click.echo(f"{counted(len(faults), 'fault')} in {counted(sum(counts.values()), 'sample')} ({total}).")


@command.command("describe")
@click.argument("name")
@click.option("--subset", metavar="NAME", help="Of this subset of the suite.")
@click.option(
    "--icc", type=click.FloatRange(0, 1), default=USUAL_ICC, show_default=True, help="Likeness inside clusters."
)
@json_option
def describe_command(name: str, subset: str | None, icc: float, as_json: bool) -> None:
    """Tell what the suite NAME asks, and the smallest difference that so many samples can show.

    A paired comparison of two models on the same samples, one-sided at 5 % error and 80 % power. How often two models
    differ on a sample is not known before they are asked, so three shares are shown.
    """
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.settings import Settings

    (suite,) = load_suites(Settings.load().eval_datasets, (name,))
    if suite.kind != "dataset":
        raise InvalidSpec(f"The suite {name!r} has no samples of its own: its kind is {suite.kind}.", field="NAME")
    shown = _described(suite.subset(subset) if subset else suite, icc)
    emit(shown, as_json, lambda: _show_description(suite, shown))


def _described(suite: "Suite", icc: float) -> dict[str, Any]:
    from modelops_dagster.domain.statistics.noninferiority import design_effect, detectable_effect, samples_needed
    from modelops_dagster.domain.statistics.proportions import exact_upper

    asked = suite.asked()
    clusters = Counter(s.cluster for s in asked)
    deff = design_effect(tuple(clusters.values()), icc)
    groups = Counter(s.metadata.group for s in asked)
    refuse = sum(s.metadata.expected == "refuse" for s in asked)
    return {
        "name": suite.name,
        "digest": suite.digest,
        "asked": len(asked),
        "clusters": len(clusters),
        "design_effect": deff,
        "splits": dict(Counter(s.metadata.split for s in suite.samples)),
        "categories": dict(groups if len(groups) > 1 else Counter(s.metadata.category for s in asked)),
        "detectable": {str(p): detectable_effect(len(asked), p, deff=deff) for p in DISCORDANCES},
        "needed": {str(m): {str(p): samples_needed(m, p, deff=deff) for p in DISCORDANCES} for m in MARGINS},
        "must_refuse": refuse,
        "zero_violations_prove": exact_upper(0, refuse) if refuse else None,
        "subsets": {name: len(suite.subset(name).asked()) for name in suite.spec.subsets},
    }


def _show_description(suite: "Suite", shown: dict[str, Any]) -> None:
    click.echo(f"{suite.title}: {suite.description}" if suite.description else suite.title)
    splits = ", ".join(f"{name} {n}" for name, n in shown["splits"].items())
    click.echo(
        f"{counted(shown['asked'], 'sample')} asked, in {counted(shown['clusters'], 'cluster')} "
        f"(design effect {shown['design_effect']:.2f}); in the file: {splits}."
    )
    for name, n in shown["subsets"].items():
        click.echo(f"Subset {name}: {counted(n, 'sample')}.")
    table("", ("category", "samples"), sorted(shown["categories"].items()))
    rows = [
        (
            f"{float(p):.0%}",
            f"{shown['detectable'][str(p)]:.1%}",
            *(f"{shown['needed'][str(m)][str(p)]}" for m in MARGINS),
        )
        for p in DISCORDANCES
    ]
    columns = ("models differ on", "smallest difference found", *(f"samples for {m:.0%}" for m in MARGINS))
    table("A paired comparison of two models", columns, rows)
    if shown["must_refuse"]:
        click.echo(
            f"{shown['must_refuse']} must be refused: no violation among them still leaves room for "
            f"{shown['zero_violations_prove']:.1%} (exact, one-sided 95 %)."
        )
