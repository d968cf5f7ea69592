"""Metrics as a terminal shows them: the value with its interval."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelops_dagster.cli.output import table

if TYPE_CHECKING:
    from modelops_dagster.domain.gauntlet.report import Metric


def metric_table(title: str, metrics: "Sequence[Metric]") -> None:
    """Print one line a metric; single contract checks are left out, since the report names those that fail."""
    rows = [_cells(m) for m in metrics if not m.name.startswith("check/")]
    table(title, ("metric", "value", "95 % interval", "n", "unit"), rows)


def _cells(metric: "Metric") -> tuple[object, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}" if metric.unit == "share" else f"{value:.4g}"

    known = metric.ci_low is not None or metric.ci_high is not None
    interval = f"{number(metric.ci_low)} to {number(metric.ci_high)}" if known else None
    return metric.name, number(metric.value), interval, metric.n, metric.unit
