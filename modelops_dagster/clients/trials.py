"""What became of the calls of aliases that have a canary, counted for all workers: one SQLite file."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from modelops_dagster.clients.databases import CountingStore
from modelops_dagster.domain.canary import LATENCY_EDGES_S, Outcomes, latency_bin

FAILED = -1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes(trial TEXT, endpoint TEXT, bin INTEGER, calls INTEGER,
                                    PRIMARY KEY(trial, endpoint, bin)) WITHOUT ROWID;
"""


class Attempt(NamedTuple):
    """One attempt to answer a call. `latency_s` is None when it failed."""

    trial: str
    endpoint: str
    latency_s: float | None


class TrialStore(CountingStore):
    """`<root>/trials.sqlite`: how many attempts of a trial fell in which latency bin, by endpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA)

    def add(self, attempts: Iterable[Attempt]) -> None:
        """Count attempts.

        Raises:
            sqlite3.Error: they were not counted.
        """
        counted = Counter(
            (a.trial, a.endpoint, FAILED if a.latency_s is None else latency_bin(a.latency_s)) for a in attempts
        )
        if not counted:
            return
        db = self._open()
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls",
                [(*key, calls) for key, calls in counted.items()],
            )

    def outcomes(self, trial: str) -> dict[str, Outcomes]:
        """What became of the calls of one trial, by endpoint."""
        rows = self._open().execute("SELECT endpoint, bin, calls FROM outcomes WHERE trial = ?", (trial,)).fetchall()
        found: dict[str, Outcomes] = {}
        for endpoint in {row[0] for row in rows}:
            bins = {number: calls for name, number, calls in rows if name == endpoint}
            found[endpoint] = Outcomes(
                calls=sum(bins.values()),
                failed=bins.get(FAILED, 0),
                latencies=tuple(bins.get(i, 0) for i in range(len(LATENCY_EDGES_S) + 1)),
            )
        return found

    def forget(self, keep: Iterable[str]) -> None:
        """Drop every trial that is not in `keep`."""
        kept = list(keep)
        marks = ",".join("?" * len(kept))
        self._open().execute(f"DELETE FROM outcomes WHERE trial NOT IN ({marks})", kept)  # noqa: S608 - marks only
