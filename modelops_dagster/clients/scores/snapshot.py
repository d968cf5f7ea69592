"""A snapshot of the score history: one DuckDB file, made from the one before it and from what landed since.

Below the views that people ask lies the schema `landing`: every table with the number of the file each row came from,
the files by number, and the latest scores and verdicts worked out once. Making the next snapshot copies the file, takes
out the rows of files that were replaced or removed, and adds those of new files, so it costs what is new and one copy.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from modelops_dagster.clients.scores.calls import CALL_COLUMNS, CallLog
from modelops_dagster.clients.scores.landing import Landing, Stamp, part_key, slot
from modelops_dagster.clients.scores.news import create_listing, list_files, list_folders, news
from modelops_dagster.clients.scores.views import LATEST, MACROS, VIEWS
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.scores import MIGRATED, TABLES, ColumnType

SQL_TYPE: dict[ColumnType, str] = {"text": "varchar", "float": "double", "int": "bigint", "timestamp": "timestamptz"}
# A snapshot of another layout is rebuilt from the landed files, never patched.
LAYOUT = hashlib.sha256(repr((TABLES, CALL_COLUMNS, MIGRATED, LATEST, VIEWS, MACROS, "2")).encode()).hexdigest()
CALLS = "gateway_requests"
ALL_TABLES = {**TABLES, CALLS: CALL_COLUMNS}
# Files of one load: bounds what DuckDB keeps of their footers.
BATCH_FILES = 1000
ATTEMPTS = 5
# A writer's clock may be so far behind ours, and its rename take so long; what comes later, the next publish sees.
SLACK = timedelta(minutes=2)
# Nothing in the caller's Python is readable as a table, and nothing is fetched for a statement that names an extension.
SEALED = {
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
T = TypeVar("T")


class Changing(Exception):
    """A file was replaced while it was read."""


@contextlib.contextmanager
def connected(path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads no variables of the caller and speaks UTC."""
    connection = duckdb.connect(path, config=SEALED)
    try:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def attach_past(connection: duckdb.DuckDBPyConnection, published: Path) -> str | None:
    """Attach the published snapshot as `past`, if it is of use.

    Returns:
        The first slot it may lack something of; None when there is no snapshot, it cannot be opened (somebody opened
        it for writing), or it is of another layout. `past` is not attached then.
    """
    for _ in range(ATTEMPTS):
        target = published.resolve()
        if not published.exists():
            return None
        try:
            connection.execute(f"attach '{_quoted(target)}' as past (read_only)")
            layout, first = connection.execute("select digest, lacks from past.landing.layout").fetchall()[0]
        except duckdb.Error:
            connection.execute("detach database if exists past")
            if published.resolve() != target:
                continue  # a newer one took its place, and this one was cleared away
            return None
        if layout == LAYOUT:
            return str(first)
        connection.execute("detach past")
        return None
    return None


def create_tables(connection: duckdb.DuckDBPyConnection, schema: str, tables: Collection[str]) -> None:
    """Tables of the schema `landing`, and what says from which files their rows are; all empty."""
    for table in tables:
        connection.execute(f"create table {schema}.{table} ({_typed(ALL_TABLES[table])}, file bigint)")
    create_listing(connection, schema)


def load(connection: duckdb.DuckDBPyConnection, schema: str, landing: Landing, files: Mapping[str, Stamp]) -> None:
    """Read landed files into the tables of `schema`. Columns that older layouts lack are null or what they meant.

    Raises:
        Changing: a file was replaced meanwhile. What was read before it stays, and is listed.
        IntegrityError: a file cannot be read.
    """
    first = _last_file(connection, schema) + 1
    # one model's rows lie together, so DuckDB skips the rest of the table
    numbered = {path: first + i for i, path in enumerate(sorted(files, key=part_key))}
    for table in TABLES:
        own = [path for path in numbered if path.startswith(f"{table}/")]
        for paths in _batches(own):
            some = {path: numbered[path] for path in paths}
            connection.execute("begin")
            try:
                _load_some(connection, schema, table, landing.root, some)
                failure = ""
            except duckdb.Error as error:
                failure = str(error).splitlines()[0]
            changed = any(_stamp(landing.root / path) != files[path] for path in some)
            connection.execute("rollback" if changed or failure else "commit")
            if changed:
                raise Changing
            if failure:
                raise IntegrityError(f"a file under {landing.root} cannot be read ({failure}); move it away.")
            list_files(connection, schema, some, files)


def _last_file(connection: duckdb.DuckDBPyConnection, schema: str) -> int:
    return int(connection.execute(f"select coalesce(max(id), 0) from {schema}.files").fetchall()[0][0])  # noqa: S608


def _load_some(
    connection: duckdb.DuckDBPyConnection, schema: str, table: str, root: Path, numbered: Mapping[str, int]
) -> None:
    meant = MIGRATED.get(table, {})
    names = ", ".join(f'coalesce("{n}", {meant[n]})' if n in meant else f'"{n}"' for n, _ in TABLES[table])
    whole = {str(root / path): number for path, number in numbered.items()}
    connection.register("numbered", pa.table({"filename": list(whole), "file": list(whole.values())}))
    connection.execute(
        f"insert into {schema}.{table} select {names}, numbered.file from "  # noqa: S608
        f"({nothing(table)} union all by name "
        "select * from read_parquet(?, union_by_name = true, hive_partitioning = false, filename = true)) as landed "
        "join numbered using (filename) order by numbered.file",
        [list(whole)],
    )
    connection.unregister("numbered")


def build(path: Path, published: Path, landing: Landing, calls: CallLog) -> bool:
    """Write a snapshot to `path`; False when the published one already holds everything.

    Raises:
        IntegrityError: a landed file cannot be read, or files keep changing while they are read.
    """
    lacks = slot(datetime.now(UTC) - SLACK)
    with connected(":memory:") as looking:
        past = attach_past(looking, published)
        base = published.resolve() if past is not None else None
        known = looking.execute("select path from past.landing.calls").fetchall() if base else []
        closed = calls.closed({name for (name,) in known})
        found = news(looking, "past.landing", landing, marks=True) if base else None
        if found is not None and not closed and found.is_none:
            return False
    if base is not None:
        shutil.copyfile(base, path)
    with connected(str(path)) as connection:
        if base is None:
            _create(connection)
        last, touched = _last_file(connection, "landing"), set[str]()
        for _ in range(ATTEMPTS):
            found = found or news(connection, "landing", landing, marks=True)
            touched |= _drop_stale(connection, found.stale)
            try:
                load(connection, "landing", landing, found.files)
                break
            except Changing:
                found = None
        else:
            raise IntegrityError(f"files under {landing.root} keep changing while they are read; try again.")
        calls.load(connection, f"landing.{CALLS}", "landing.calls", closed)
        _refresh_latest(connection, touched, last)
        list_folders(connection, "landing", found.folders)
        connection.execute("update landing.layout set lacks = ?", [lacks])
    return True


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("create schema landing")
    connection.execute(f"create table landing.layout as select '{LAYOUT}' as digest, '' as lacks")
    connection.execute("create table landing.calls (path varchar)")
    create_tables(connection, "landing", ALL_TABLES)
    for name, (table, _) in LATEST.items():
        connection.execute(f"create table landing.{name} ({_typed(TABLES[table])})")
    for table, columns in ALL_TABLES.items():
        connection.execute(f"create view {table} as {once(table, f'select {named(columns)} from landing.{table}')}")  # noqa: S608
    for name in LATEST:
        connection.execute(f"create view {name} as from landing.{name}")
    create_views(connection)


def create_views(connection: duckdb.DuckDBPyConnection, names: Collection[str] | None = None) -> None:
    """What is worked out from the tables and the latest rows: of these names, or all of it."""
    for name, view in VIEWS.items():
        if names is None or name in names:
            connection.execute(f"create view {name} as {view}")
    for macro, body in MACROS.items():
        if names is None or macro_name(macro) in names:
            connection.execute(f"create macro {macro} as table {body}")


def macro_name(macro: str) -> str:
    """Of a macro with its arguments."""
    return macro.partition("(")[0]


def _drop_stale(connection: duckdb.DuckDBPyConnection, stale: Sequence[int]) -> set[str]:
    """Take out the rows of files that were replaced or removed; whose they were."""
    touched: set[str] = set()
    for some in _batches(stale):
        numbers = ", ".join(map(str, some))
        for table, columns in TABLES.items():
            if "repo_id" in dict(columns):
                whose = (
                    f"select distinct repo_id from landing.{table} where file in ({numbers}) and repo_id is not null"  # noqa: S608
                )
                touched |= {repo_id for (repo_id,) in connection.execute(whose).fetchall()}
            connection.execute(f"delete from landing.{table} where file in ({numbers})")  # noqa: S608
        connection.execute(f"delete from landing.files where id in ({numbers})")  # noqa: S608
    return touched


def _refresh_latest(connection: duckdb.DuckDBPyConnection, touched: set[str], last: int) -> None:
    """Work out the latest rows again, of models that lost rows and of those with rows of files after `last`."""
    for name, (table, keep) in LATEST.items():
        fresh = f"select distinct repo_id from landing.{table} where file > {last} and repo_id is not null"  # noqa: S608
        theirs = f"repo_id in ({literals(touched | {repo_id for (repo_id,) in connection.execute(fresh).fetchall()})})"
        connection.execute(f"delete from landing.{name} where {theirs}")  # noqa: S608
        connection.execute(
            f"insert into landing.{name} select * from {table} where {theirs} {keep} order by repo_id"  # noqa: S608
        )


def literals(texts: Collection[str]) -> str:
    """Texts for an IN list: a few of them are looked for while a table is read, where a join would read all of it."""
    return ", ".join("'" + text.replace("'", "''") + "'" for text in sorted(texts)) or "null"


def once(table: str, rows: str) -> str:
    """A verdict may land more than once, by replay, and counts once."""
    if table != "verdicts":
        return rows
    return f"select * from ({rows}) qualify row_number() over (partition by verdict_id order by decided_at) = 1"  # noqa: S608


def named(columns: Iterable[tuple[str, ColumnType]]) -> str:
    """Column names for a SELECT."""
    return ", ".join(f'"{name}"' for name, _ in columns)


def nothing(table: str) -> str:
    """A SELECT of the table's columns without rows."""
    columns = ", ".join(f'null::{SQL_TYPE[kind]} as "{name}"' for name, kind in ALL_TABLES[table])
    return f"select {columns} where false"


def _typed(columns: Iterable[tuple[str, ColumnType]]) -> str:
    return ", ".join(f'"{name}" {SQL_TYPE[kind]}' for name, kind in columns)


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for begin in range(0, len(items), BATCH_FILES):
        yield items[begin : begin + BATCH_FILES]


def _stamp(path: Path) -> Stamp | None:
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return Stamp(seen.st_size, seen.st_mtime_ns, seen.st_ino)
