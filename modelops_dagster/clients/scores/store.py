"""Publishing and querying the score history.

Publishing builds a new snapshot next to the old ones and swaps a link, so readers never wait and never see half of one.
A snapshot remembers which landed files it was built from; a query adds those that landed since, so its answer is always
up to date, and the next snapshot is built from the last one plus those.
"""

import contextlib
import fcntl
import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from modelops_dagster.clients.scores.landing import Landing, Stamp
from modelops_dagster.clients.scores.views import VIEWS
from modelops_dagster.domain.errors import DiskFull, IntegrityError, InvalidSpec
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.scores import TABLES, ColumnType, verdict_from_row, verdict_row
from modelops_dagster.domain.verdicts import Verdict

SQL_TYPE: dict[ColumnType, str] = {"text": "varchar", "float": "double", "int": "bigint", "timestamp": "timestamptz"}
# A snapshot of another layout is rebuilt from the landed files, never patched.
LAYOUT = hashlib.sha256(repr((TABLES, VIEWS)).encode()).hexdigest()
KEPT_SNAPSHOTS = 3
ATTEMPTS = 5
READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)
# Nothing in the caller's Python is readable as a table, and nothing is fetched for a statement that names an extension.
SEALED = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# Before a person's SQL runs: no file, no network, and no way to set it back.
CLOSED = ("set enable_external_access = false", "set lock_configuration = true", "begin transaction read only")


class ScoreStore:
    """The score history under one directory; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.landing = Landing(root / "landing")

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
                if self._build(building):
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
        with _connection(":memory:") as connection:
            self._gather(connection)
            for table in TABLES:
                connection.execute(f"create view {table} as {_source(table)}")
            for name, view in VIEWS.items():
                connection.execute(f"create view {name} as {view}")
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

    def first_decision(self, repo_id: str, commit_hash: str, lane: str, now: datetime) -> datetime:
        """When a revision was first decided about in a lane, UTC; `now` when it never was."""
        sql = "select min(decided_at) from verdicts where repo_id = ? and commit_hash = ? and lane = ?"
        found = self.query(sql, [repo_id, commit_hash, lane])[1][0][0]
        return found or now

    def _build(self, path: Path) -> bool:
        """Write a snapshot to `path`; False when the present one already holds everything."""
        with _connection(str(path)) as connection:
            stamps, is_current = self._gather(connection)
            if is_current:
                return False
            for table in TABLES:
                # one model's rows lie together, so DuckDB skips the rest of the file
                connection.execute(f"create table {table} as from ({_source(table)}) order by repo_id, lane")
            for name, view in VIEWS.items():
                connection.execute(f"create view {name} as {view}")
            connection.execute("create schema landing")
            connection.execute(f"create table landing.layout as select '{LAYOUT}' as digest")
            columns = zip(*((path, *stamp) for path, stamp in stamps.items()), strict=True) if stamps else [()] * 4
            types = (pa.string(), pa.int64(), pa.int64(), pa.int64())
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
            connection.register("listed", pa.table(arrays, names=["path", *Stamp._fields]))
            connection.execute("create table landing.files as select * from listed")
            connection.unregister("listed")
        return True

    def _gather(self, connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, Stamp], bool]:
        """Attach the present snapshot as `past`, where it is of use, and load what landed since as `fresh`.

        Returns:
            The landed files that both hold together, and whether the snapshot alone holds them all.
        """
        for _ in range(ATTEMPTS):
            stamps = self.landing.stamps()
            held = self._attach(connection, stamps)
            new = [path for path in stamps if path not in (held or {})]
            failure = self._load(connection, new)
            # a run that repeats its part may have replaced a file between the look and the read
            now = self.landing.stamps()
            if all(now.get(path) == stamp for path, stamp in stamps.items()):
                if failure:
                    raise IntegrityError(f"a file under {self.landing.root} cannot be read ({failure}); move it away.")
                return stamps, held is not None and not new
            connection.execute("detach fresh")
            connection.execute("detach past")
        raise IntegrityError(f"files under {self.landing.root} keep changing while they are read; try again.")

    def _attach(self, connection: duckdb.DuckDBPyConnection, stamps: dict[str, Stamp]) -> dict[str, Stamp] | None:
        """Attach the snapshot as `past` and return the files it holds.

        An empty database stands in, and None is returned, when there is no snapshot, it cannot be opened (somebody
        opened it for writing), it is of another layout, or a file it was built from has changed.
        """
        path = str(self.published.resolve()).replace("'", "''")
        if self.published.exists():
            try:
                connection.execute(f"attach '{path}' as past (read_only)")
                layout = connection.execute("select digest from past.landing.layout").fetchone()
                listed = connection.execute("select * from past.landing.files").fetchall()
            except duckdb.Error:
                layout, listed = None, []
            held = {path: Stamp(*stamp) for path, *stamp in listed}
            if layout == (LAYOUT,) and all(stamps.get(path) == stamp for path, stamp in held.items()):
                return held
            connection.execute("detach database if exists past")
        connection.execute("attach ':memory:' as past")
        for table in TABLES:
            connection.execute(f"create table past.{table} ({_columns(table)})")
        return None

    def _load(self, connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> str:
        """Read landed files into `fresh`; the first line of what went wrong, or ''.

        Files of older layouts lack columns, which become null.
        """
        connection.execute("attach ':memory:' as fresh")
        for table in TABLES:
            connection.execute(f"create table fresh.{table} ({_columns(table)})")
            files = [str(self.landing.root / path) for path in paths if path.startswith(f"{table}/")]
            if not files:
                continue
            names = ", ".join(f'"{name}"' for name, _ in TABLES[table])
            landed = "select * from read_parquet(?, union_by_name = true, hive_partitioning = false)"
            whole = f"select * from fresh.{table} union all by name {landed}"  # noqa: S608
            try:
                connection.execute(f"insert into fresh.{table} select {names} from ({whole})", [files])  # noqa: S608
            except duckdb.Error as error:
                return str(error).splitlines()[0]
        return ""

    def _prune(self) -> None:
        present = self.published.resolve()
        old = sorted(p for p in self.root.glob("scores-*.duckdb") if p != present)
        for path in old[: max(0, len(old) - (KEPT_SNAPSHOTS - 1))]:
            path.with_name(path.name + ".wal").unlink(missing_ok=True)
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _connection(path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(path, config=SEALED)
    try:
        connection.execute("set TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def _columns(table: str) -> str:
    return ", ".join(f'"{name}" {SQL_TYPE[kind]}' for name, kind in TABLES[table])


def _source(table: str) -> str:
    """Both halves of a table. A verdict may land more than once, by replay, and counts once."""
    names = ", ".join(f'"{name}"' for name, _ in TABLES[table])
    both = f"select {names} from past.{table} union all select {names} from fresh.{table}"  # noqa: S608
    if table != "verdicts":
        return both
    return f"select * from ({both}) qualify row_number() over (partition by verdict_id order by decided_at) = 1"  # noqa: S608


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
