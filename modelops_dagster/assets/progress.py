"""Progress of long steps as log lines: one per tenth, so that the run's page shows movement and stays readable."""

import threading
import time
from collections.abc import Callable

import dagster as dg

from modelops_dagster.domain.transfers import transfer_line

SILENCE_S = 15.0


def log_tenths(log: dg.DagsterLogManager, verb: str, unit: str) -> Callable[..., None]:
    """Return a callback for (done, total), and a text that is left out."""
    shown = [-1]

    def report(done: float, total: float, _text: str = "") -> None:
        tenth = int(10 * done / total) if total else 0
        if tenth > shown[0]:
            shown[0] = tenth
            log.info(f"{verb} {done:,.0f} of {total:,.0f} {unit}")

    return report


def log_transfer(log: dg.DagsterLogManager, verb: str) -> Callable[[int, int], None]:
    """Return a callback for (bytes done, bytes in all), from any thread: a line at every tenth, and after a silence.

    A line says how fast it goes and how long it will take, since a tenth of a large model takes minutes.
    """
    lock = threading.Lock()
    begun = time.monotonic()
    first: list[int] = []
    shown = [-1, begun]

    def report(done: int, total: int) -> None:
        with lock:
            first[:] = first or [done]  # what was there before is no speed of ours
            tenth, now = (int(10 * done / total) if total else 0), time.monotonic()
            if tenth <= shown[0] and now - shown[1] < SILENCE_S:
                return
            shown[:] = [max(tenth, int(shown[0])), now]
            log.info(f"{verb} {transfer_line(done, total, done - first[0], now - begun)}")

    return report


def log_changes(log: dg.DagsterLogManager) -> Callable[[str], None]:
    """Return a callback for status lines that repeat until something changes."""
    last = [""]

    def report(line: str) -> None:
        if line != last[0]:
            last[0] = line
            log.info(line)

    return report
