"""The values of the chain as a terminal shows them: one function for each kind, chosen by its asset's key."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import table
from modelops_dagster.cli.preflight import show_preflight

if TYPE_CHECKING:
    from modelops_dagster.domain.comparison import Comparison
    from modelops_dagster.domain.gateway import Route
    from modelops_dagster.domain.verdicts import Verdict


def show_value(key: str, value: Any, compared: Mapping[str, "Comparison | None"]) -> None:
    """Print the value of one asset, or nothing where other values tell the same.

    Args:
        key: of the asset, e.g. `raw/verdict`.
        value: what it made.
        compared: by lane, the verdict's numbers beside those of the revision before.
    """
    from modelops_dagster.domain import summary

    if key.endswith("/endpoint"):
        _rows(f"{key}: {value.rung}, {value.tokens_per_second:.1f} tokens/s", summary.ladder_table(value))
    elif key.endswith("/parked"):
        at = f"{value.checkpoint.revision.commit_hash[:12]}, {value.parked_at:%Y-%m-%d %H:%M} UTC"
        _rows(f"{key}: no rung held {at}", summary.ladder_table(value))
    elif key.endswith("/verdict"):
        show_criteria(value, f"{key}: {value.outcome}")
        click.echo(value.reason)
        _comparison(value.commit_hash, compared[value.lane])
    elif key in ("release", "release/stopped"):
        stopped = " was stopped before any weight was fetched" if key != "release" else ""
        click.echo(f"{value.revision.repo_id}@{value.revision.commit_hash} from {value.hub_url}{stopped}")
        if value.preflight is not None:
            show_preflight(value.preflight)
    elif key == "lane_plan":
        _rows("lanes", summary.plan_table(value))
    elif key.endswith("_weights"):
        click.echo(f"{key}: {summary.checkpoint_line(value)}")
    elif key == "rehearsal":
        if value.results:
            _rows("rehearsal with made-up weights", summary.rehearsal_table(value))
    elif key.endswith("/recovery"):
        _rows(f"{key}: {value.outcome}", summary.recovery_table(value))
        click.echo(value.reason)
    elif key.endswith("/gateway_registration") and value.swap is not None:
        click.echo(f"{key}: alias {value.swap.alias}: {value.swap.reason}")


def show_criteria(verdict: "Verdict", title: str = "", *, only_telling: bool = False) -> None:
    """Print the criteria of a verdict, and below them what they have to add.

    Args:
        only_telling: that a suite could be scored is worth a row only where it was not so.
    """
    from modelops_dagster.domain.summary import criterion_notes, verdict_table

    rows = [{name: cell for name, cell in row.items() if name != "note"} for row in verdict_table(verdict)]
    usual = [r for r in rows if only_telling and r["outcome"] == "pass" and "unscored_share" in str(r["criterion"])]
    _rows(title, [row for row in rows if row not in usual])
    if usual:
        click.echo(f"{len(usual)} more pass: {', '.join(str(row['criterion']) for row in usual)}")
    for line in criterion_notes(verdict):
        click.echo(line)


def show_route(alias: str, route: "Route | None") -> None:
    """Print where an alias leads."""
    targets = [(t.endpoint, t.weight, ", ".join(t.tags), t.url) for t in route.targets] if route else []
    table(f"route {alias}" if route else "no route", ["endpoint", "weight", "tags", "url"], targets)


def _comparison(commit_hash: str, comparison: "Comparison | None") -> None:
    from modelops_dagster.domain.comparison import comparison_table

    if comparison is None:
        return
    click.echo(f"{commit_hash[:12]} beside {comparison.previous_commit[:12]}, the revision before:")
    _rows("", comparison_table(comparison))
    for line in filter(None, [comparison.note, *comparison.refused]):
        click.echo(line)


def _rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table(title, list(rows[0]) if rows else [], [list(r.values()) for r in rows])
