"""Progress of long steps as log lines: one per tenth, so that the run's page shows movement and stays readable."""

from collections.abc import Callable

import dagster as dg


def log_tenths(log: dg.DagsterLogManager, verb: str, unit: str) -> Callable[..., None]:
    """Return a callback for (done, total), and a text that is left out."""
    shown = [-1]

    def report(done: float, total: float, _text: str = "") -> None:
        tenth = int(10 * done / total) if total else 0
        if tenth > shown[0]:
            shown[0] = tenth
            log.info(f"{verb} {done:,.0f} of {total:,.0f} {unit}")

    return report


def log_changes(log: dg.DagsterLogManager) -> Callable[[str], None]:
    """Return a callback for status lines that repeat until something changes."""
    last = [""]

    def report(line: str) -> None:
        if line != last[0]:
            last[0] = line
            log.info(line)

    return report
