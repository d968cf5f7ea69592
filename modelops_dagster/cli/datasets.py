"""`modelops datasets`: whether samples can be trusted, and what they can show."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.domain.gauntlet.suite import Suite

DISCORDANCES = (0.05, 0.10, 0.20)
MARGINS = (0.03, 0.05, 0.10)


@click.group(name="datasets")
def command() -> None:
    """Check and describe the samples that suites ask."""


@command.command("lint")
@click.argument("folder", required=False, type=click.Path(path_type=Path, file_okay=False), metavar="[DIR]")
@json_option
@click.pass_context
def lint_command(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Look for faults in every samples file of DIR (default: the platform's own); exits 1 when there is one.

    Duplicates and near duplicates, clusters that lie in two splits, targets no answer can reach, scorers that let
    nonsense pass, must-refuse samples without a benign twin, missing canaries. No model is asked.
    """
    from modelops_dagster.clients.gauntlet.loading import load_samples
    from modelops_dagster.clients.gauntlet.sandbox import run_code
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.gauntlet.lint import Fault, lint
    from modelops_dagster.settings import Settings

    where = folder or Settings.load().eval_datasets
    files = sorted(where.glob("*.jsonl"))
    if not files:
        raise InvalidSpec(f"{where} holds no samples: put at least one NAME.jsonl there.", field="DIR")
    sets, faults = {}, []
    for path in files:
        try:
            sets[path.stem] = load_samples(path)
        except InvalidSpec as error:
            faults.append(Fault(rule="unreadable", samples=(), said=error.sentence))
    faults += lint(sets, run_code)
    counts = {name: len(samples) for name, samples in sets.items()}
    emit({"sets": counts, "faults": faults}, as_json, lambda: _show(counts, faults))
    if faults:
        ctx.exit(1)


def _show(counts: dict[str, int], faults: "list[Any]") -> None:
    if faults:
        table("", ("rule", "fault"), [(f.rule, f.said) for f in faults])
    total = ", ".join(f"{name} {n}" for name, n in counts.items())
    click.echo(f"{len(faults)} faults in {sum(counts.values())} samples ({total}).")


@command.command("describe")
@click.argument("name")
@click.option("--subset", metavar="NAME", help="Of this subset of the suite.")
@click.option("--icc", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Likeness inside clusters.")
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
    click.echo(f"{suite.title}: {suite.description}")
    splits = ", ".join(f"{name} {n}" for name, n in shown["splits"].items())
    click.echo(
        f"{shown['asked']} samples asked, in {shown['clusters']} clusters "
        f"(design effect {shown['design_effect']:.2f}); in the file: {splits}."
    )
    for name, n in shown["subsets"].items():
        click.echo(f"Subset {name}: {n} samples.")
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
