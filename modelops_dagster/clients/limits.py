"""What each key used, counted for all workers and over restarts: one SQLite file beside the keys.

A call is counted when it comes in, with what it will probably take, and corrected when that is known. A worker that is
killed never corrects: its calls stay counted as estimated, so a limit errs to the careful side. Keys without a limit
are not counted.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from modelops_dagster.clients.databases import CountingStore
from modelops_dagster.domain.gateway import KeyRecord

WINDOW_S = 60
_KEEP_OPEN_S = 86_400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS seconds(key_id TEXT, second INTEGER, requests INTEGER, tokens INTEGER,
                                   PRIMARY KEY(key_id, second)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS days(key_id TEXT, day TEXT, usd REAL, PRIMARY KEY(key_id, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_calls(call_id TEXT PRIMARY KEY, key_id TEXT, second INTEGER, day TEXT, tokens INTEGER,
                                      usd REAL) WITHOUT ROWID;
"""


class Exceeded(NamedTuple):
    """A limit of a key that is used up."""

    limit: str
    sentence: str
    retry_after_s: float


class Use(NamedTuple):
    """What a call took in the end."""

    call_id: str
    tokens: int
    usd: float


class LimitStore(CountingStore):
    """`<root>/limits.sqlite`. One object per process; open it after a fork and not before.

    Args:
        path: of the file; made when it is not there.
        now: seconds since the epoch.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        super().__init__(path, _SCHEMA)
        self._now = now

    def admit(self, key: KeyRecord, call_id: str, *, tokens: int, usd: float) -> Exceeded | None:
        """Count one call of the key, unless a limit of it is used up.

        Args:
            tokens: an estimate, counted until the true number is known.
            usd: an estimate, too.

        Raises:
            sqlite3.Error: the counts cannot be read or written; the caller must then refuse.
        """
        if not is_limited(key):
            return None
        now = self._now()
        second, day = int(now), _day(now)
        db = self._open()
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM seconds WHERE key_id = ? AND second <= ?", (key.key_id, second - WINDOW_S))
            oldest, requests, used = db.execute(
                "SELECT min(second), coalesce(sum(requests), 0), coalesce(sum(tokens), 0) FROM seconds "
                "WHERE key_id = ?",
                (key.key_id,),
            ).fetchone()
            spent = db.execute("SELECT usd FROM days WHERE key_id = ? AND day = ?", (key.key_id, day)).fetchone()
            wait_s = max(1.0, (oldest or second) + WINDOW_S - now)
            found = _exceeded(key, requests, used, spent[0] if spent else 0.0, wait_s, now)
            if found is None:
                db.execute(
                    "INSERT INTO seconds VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE "
                    "SET requests = requests + 1, tokens = tokens + excluded.tokens",
                    (key.key_id, second, tokens),
                )
                _spend(db, key.key_id, day, usd)
                db.execute(
                    "INSERT OR REPLACE INTO open_calls VALUES (?, ?, ?, ?, ?, ?)",
                    (call_id, key.key_id, second, day, tokens, usd),
                )
        return found

    def settle(self, uses: Iterable[Use]) -> None:
        """Put what calls took in place of what was estimated. A call that is not open is left alone.

        Raises:
            sqlite3.Error: the counts cannot be written; the estimates stand.
        """
        db = self._open()
        with db:
            db.execute("BEGIN IMMEDIATE")
            for use in uses:
                row = db.execute("DELETE FROM open_calls WHERE call_id = ? RETURNING *", (use.call_id,)).fetchone()
                if row is None:
                    continue
                _, key_id, second, day, tokens, usd = row
                db.execute(
                    "UPDATE seconds SET tokens = tokens + ? WHERE key_id = ? AND second = ?",
                    (use.tokens - tokens, key_id, second),
                )
                _spend(db, key_id, day, use.usd - usd)

    def spent_today(self, key_id: str) -> float:
        """USD counted for the key since midnight UTC, estimates of open calls included."""
        row = (
            self._open()
            .execute("SELECT usd FROM days WHERE key_id = ? AND day = ?", (key_id, _day(self._now())))
            .fetchone()
        )
        return float(row[0]) if row else 0.0

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            db = super()._open()
            db.execute("DELETE FROM open_calls WHERE second < ?", (int(self._now()) - _KEEP_OPEN_S,))
            db.execute("DELETE FROM days WHERE day < ?", (_day(self._now() - 40 * 86_400),))
        return super()._open()


def is_limited(key: KeyRecord) -> bool:
    """Whether anything of the key has to be counted."""
    return not (key.rpm is None and key.tpm is None and key.budget_usd_per_day is None)


def _exceeded(key: KeyRecord, requests: int, tokens: int, usd: float, wait_s: float, now: float) -> Exceeded | None:
    if key.rpm is not None and requests >= key.rpm:
        return Exceeded("rpm", f"This key may make {key.rpm} requests in 60 seconds and made them.", wait_s)
    if key.tpm is not None and tokens >= key.tpm:
        return Exceeded("tpm", f"This key may use {key.tpm} tokens in 60 seconds and used {tokens}.", wait_s)
    if key.budget_usd_per_day is not None and usd >= key.budget_usd_per_day:
        midnight = (datetime.fromtimestamp(now, UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0)
        told = f"This key's budget of {key.budget_usd_per_day:g} USD a day is used up; it is renewed at midnight UTC."
        return Exceeded("budget", told, max(1.0, midnight.timestamp() - now))
    return None


def _spend(db: sqlite3.Connection, key_id: str, day: str, usd: float) -> None:
    db.execute(
        "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET usd = usd + excluded.usd", (key_id, day, usd)
    )


def _day(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).date().isoformat()
