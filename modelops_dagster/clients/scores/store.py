"""Publishing and querying the score history.

Publishing builds a new snapshot next to the old ones and swaps a link, so readers never wait and never see half of one.
A snapshot remembers which landed files it was built from; a query adds those that landed since, so its answer is always
up to date, and the next snapshot is built from the last one plus those (`snapshot.py`).
"""

import fcntl
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from modelops_dagster.clients.scores.calls import CallLog
from modelops_dagster.clients.scores.landing import Landing
from modelops_dagster.clients.scores.news import news
from modelops_dagster.clients.scores.offering import names_of, offer
from modelops_dagster.clients.scores.snapshot import (
    ALL_TABLES,
    ATTEMPTS,
    CALLS,
    Changing,
    attach_past,
    build,
    connected,
    create_tables,
    load,
)
from modelops_dagster.domain.errors import DiskFull, IntegrityError, InvalidSpec
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.scores import TABLES, verdict_from_row, verdict_row
from modelops_dagster.domain.verdicts import Verdict

KEPT_SNAPSHOTS = 3
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)
# Before a person's SQL runs: no file, no network, and no way to set it back.
CLOSED = ("set enable_external_access = false", "set lock_configuration = true", "begin transaction read only")


class ScoreStore:
    """The score history under one directory; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.landing = Landing(root / "landing")
        self.calls = CallLog(root.parent / "gateway" / "calls")

    @property
    def published(self) -> Path:
        """What analysts open, read-only: a link to the newest snapshot, absent until the first `publish`."""
        return self.root / "scores.duckdb"

    def land(self, table: str, rows: Sequence[Row], *, repo_id: str, run_id: str, part: str | None = None) -> Path:
        """Write the rows of one table from one part of a run as one immutable Parquet file.

        The file's name holds the run and the part: landing that part again replaces exactly its own file, so a part is
        landed in one call.

        Args:
            rows: as `domain.scores.TABLES` lists the columns; a column a row lacks is null; times are UTC.
            part: by default the lane, suite and concurrency (or verdict) that all rows share.

        Raises:
            InvalidSpec: no such table or column, a value of the wrong type, or a row of another model or run.
            DiskFull: no space; nothing half-written is left.
        """
        return self.landing.write(table, rows, repo_id=repo_id, run_id=run_id, part=part)

    def land_verdict(self, verdict: Verdict, *, run_id: str) -> Path:
        """Land one decision. A replay has the same id and is read as the same row."""
        return self.land("verdicts", [verdict_row(verdict)], repo_id=verdict.repo_id, run_id=run_id)

    def publish(self) -> Path:
        """Build a snapshot of everything landed so far and point `scores.duckdb` at it.

        Readers of older snapshots keep them; the last three stay on disk. Publishers wait for each other. When nothing
        landed since the present snapshot, it stays.

        Returns:
            The snapshot's own path, `scores-<UTC time>.duckdb`.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".publish.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.landing.sweep()
            # the lock is ours, so what carries this name is a killed publisher's
            for leftover in self.root.glob(".building-*"):
                leftover.unlink()
            name = f"scores-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.duckdb"
            building = self.root / f".building-{name}"
            try:
                if build(building, self.published, self.landing, self.calls):
                    building.chmod(0o444)
                    building.rename(self.root / name)
                    link = self.root / f".building-link-{uuid.uuid4().hex}"
                    link.symlink_to(name)
                    link.replace(self.published)
            except duckdb.Error as error:
                if "No space left" not in str(error):
                    raise
                raise DiskFull(f"no space left to publish under {self.root}; free some and publish again.") from error
            finally:
                for leftover in self.root.glob(f"{building.name}*"):
                    leftover.unlink()
            self._prune()
            return self.published.resolve(strict=True)

    def query(
        self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run one reading statement over everything landed so far.

        The statement sees the tables and views and nothing else: no file, no network, no change.

        Returns:
            Column names, and rows as tuples; times are UTC.

        Raises:
            InvalidSpec: the statement does not hold, or does more than read.
        """
        with connected(":memory:") as connection:
            self._gather(connection, sql)
            for line in CLOSED:
                connection.execute(line)
            return _read(connection, sql, parameters)

    def counts(self) -> dict[str, int]:
        """Rows per table."""
        sql = " union all ".join(f"select '{table}', count(*) from {table}" for table in TABLES)  # noqa: S608
        return {str(table): int(n) for table, n in self.query(sql)[1]}

    def latest_verdicts(self, repo_id: str | None = None) -> list[Verdict]:
        """The last decision on each model and lane, newest first; on one model when `repo_id` is given."""
        sql = "select * from latest_verdicts where coalesce(repo_id = ?, true) order by decided_at desc, verdict_id"
        columns, rows = self.query(sql, [repo_id])
        return [verdict_from_row(dict(zip(columns, row, strict=True))) for row in rows]

    def verdict(self, verdict_id: str) -> Verdict | None:
        """One decision by its id."""
        columns, rows = self.query("select * from verdicts where verdict_id = ?", [verdict_id])
        return verdict_from_row(dict(zip(columns, rows[0], strict=True))) if rows else None

    def held_before(self, repo_id: str, commit_hash: str, lane: str) -> Verdict | None:
        """The last decision on a revision in a lane, if it was a hold."""
        found = [v for v in self.latest_verdicts(repo_id) if (v.commit_hash, v.lane) == (commit_hash, lane)]
        return found[0] if found and found[0].outcome == "hold" else None

    def first_decision(self, repo_id: str, commit_hash: str, lane: str, now: datetime) -> datetime:
        """When a revision was first decided about in a lane, UTC; `now` when it never was."""
        sql = "select min(decided_at) from verdicts where repo_id = ? and commit_hash = ? and lane = ?"
        found = self.query(sql, [repo_id, commit_hash, lane])[1][0][0]
        return found or now

    def _gather(self, connection: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Attach the snapshot, load what the statement asks for and landed since, and offer both as one."""
        names = names_of(sql)
        tables = names & ALL_TABLES.keys()
        for _ in range(ATTEMPTS):
            first = attach_past(connection, self.published)
            past = "past.landing" if first is not None else None
            since = news(connection, past, self.landing, first or "", tables - {CALLS})
            calls = self._calls_since(connection, first) if CALLS in tables else []
            if past is not None and since.is_none and not calls:
                connection.execute("use past")
                return
            connection.execute("attach ':memory:' as fresh")
            create_tables(connection, "fresh", tables)
            try:
                load(connection, "fresh", self.landing, since.files)
                break
            except Changing:
                connection.execute("detach fresh")
                connection.execute("detach database if exists past")
        else:
            raise IntegrityError(f"files under {self.landing.root} keep changing while they are read; try again.")
        if calls:
            self.calls.load(connection, f"fresh.{CALLS}", None, calls)
        offer(connection, past, names, since.stale)

    def _calls_since(self, connection: duckdb.DuckDBPyConnection, first: str | None) -> list[str]:
        known = connection.execute("select path from past.landing.calls").fetchall() if first is not None else []
        return self.calls.since(first, {path for (path,) in known})

    def _prune(self) -> None:
        present = self.published.resolve()
        old = sorted(p for p in self.root.glob("scores-*.duckdb") if p != present)
        for path in old[: max(0, len(old) - (KEPT_SNAPSHOTS - 1))]:
            path.with_name(path.name + ".wal").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _read(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] | Mapping[str, object]
) -> tuple[list[str], list[tuple[Any, ...]]]:
    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise InvalidSpec(f"the SQL holds {len(statements)} statements; give exactly one.", field="sql")
        if statements[0].type not in READING:
            kind = statements[0].type.name
            raise InvalidSpec(f"{kind} is refused: the score history is only read, so give a SELECT.", field="sql")
        result = connection.execute(
            statements[0], (dict(parameters) if isinstance(parameters, Mapping) else list(parameters)) or None
        )
        return [column[0] for column in result.description or ()], result.fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise InvalidSpec(f"the SQL does not hold: {first.rstrip('.')}.", field="sql") from error
