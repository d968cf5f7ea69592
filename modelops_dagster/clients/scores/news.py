"""What has landed since a snapshot was made, found in the folders whose list of files changed.

A file appears, is replaced and is removed by a change of its folder, which the folder's own time tells. So a snapshot
keeps the time of every folder, and whoever holds it asks the folders, one a minute and table, and not the files.

A folder that changed a moment ago may change again without its time telling so. Who makes a snapshot therefore marks it
with a time that is long past before looking through it: whatever happens from then on takes the mark away.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import duckdb
import pyarrow as pa

from modelops_dagster.clients.scores.landing import Landing, Stamp, folder_of, part_key, slot_of
from modelops_dagster.domain.scores import TABLES

# Changes within one tick of a filesystem's clock leave one time: what changed so lately is marked or looked at again.
SETTLED_NS = 5 * 10**9
# How far a mark lies before what is known of the folder: a writer's clock may be behind ours by almost as much.
MARK_NS = 2 * 60 * 10**9
COLUMNS = "id bigint, path varchar, key varchar, folder varchar, size_bytes bigint, mtime_ns bigint, inode bigint"


class News(NamedTuple):
    """What a snapshot lacks of what has landed."""

    files: dict[str, Stamp]
    """To be read, by path."""
    stale: list[int]
    """Files whose rows count no more, by number."""
    folders: dict[str, int]
    """When each folder that was asked changed last, or its mark, in ns; 0 when it changed just now and has no mark."""

    @property
    def is_none(self) -> bool:
        return not self.files and not self.stale


def create_listing(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
    """The tables that say what a snapshot holds, empty."""
    connection.execute(f"create table {schema}.files ({COLUMNS})")
    connection.execute(f"create table {schema}.folders (path varchar, slot varchar, mtime_ns bigint)")


def list_files(
    connection: duckdb.DuckDBPyConnection, schema: str, numbered: Mapping[str, int], files: Mapping[str, Stamp]
) -> None:
    """Note that the rows of these files are held, by the files' numbers."""
    rows = [(number, path, part_key(path), folder_of(path), *files[path]) for path, number in numbered.items()]
    _insert(connection, f"{schema}.files", rows)


def list_folders(connection: duckdb.DuckDBPyConnection, schema: str, folders: Mapping[str, int]) -> None:
    """Note how the folders were when they were looked through, in place of what was noted before."""
    connection.execute(f"delete from {schema}.folders")  # noqa: S608
    _insert(connection, f"{schema}.folders", [(path, slot_of(path), changed) for path, changed in folders.items()])


def news(
    connection: duckdb.DuckDBPyConnection,
    schema: str | None,
    landing: Landing,
    first: str = "",
    tables: Collection[str] = tuple(TABLES),
    *,
    marks: bool = False,
) -> News:
    """What landed since the snapshot whose tables are in `schema`.

    Args:
        connection: has the snapshot attached.
        schema: None when there is no snapshot.
        landing: where files land.
        first: look only into folders of this slot and later; '' looks at every folder, and finds older copies of files
            that were removed.
        tables: look only for files of these.
        marks: mark the folders that changed just now, for a snapshot to be made of what is found.
    """
    now = time.time_ns()
    seen = landing.folders(first, tables)
    known = {} if schema is None else _known(connection, schema, first, tables)
    changed = {path for path in {*seen, *known} if seen.get(path) != known.get(path)}
    if marks:
        lately = {path: seen[path] for path in changed & seen.keys() if seen[path] >= now - SETTLED_NS}
        # no mark is that of the snapshot there is: its readers are to see that something happened
        seen |= landing.mark({path: min(at, known.get(path) or at) - MARK_NS for path, at in lately.items()})
    noted = {path: at if at < now - SETTLED_NS else 0 for path, at in seen.items()}
    if schema is None:
        return News(landing.stamps(seen), [], noted)
    files, stale, is_lost = _compared(connection, schema, landing, changed)
    if is_lost and not first:
        # an older copy of what is gone may lie in a folder that nothing happened to
        files, stale, _ = _compared(connection, schema, landing, {*seen, *known})
    return News(files, sorted(stale), noted)


def _known(connection: duckdb.DuckDBPyConnection, schema: str, first: str, tables: Collection[str]) -> dict[str, int]:
    listed = connection.execute(f"select path, mtime_ns from {schema}.folders where slot >= ?", [first]).fetchall()  # noqa: S608
    return {path: changed for path, changed in listed if path.split("/")[0] in tables}


def _compared(
    connection: duckdb.DuckDBPyConnection, schema: str, landing: Landing, folders: Collection[str]
) -> tuple[dict[str, Stamp], set[int], bool]:
    """What is in these folders beside what is held of them.

    Returns:
        (files to be read, numbers of files that count no more, whether a file that was held is not there any more).
    """
    if not folders:
        return {}, set(), False
    stamps = landing.stamps(folders)
    held = {path: (number, Stamp(*stamp)) for number, path, *stamp in _held(connection, schema, "folder", folders)}
    new = {path: stamp for path, stamp in stamps.items() if path not in held or held[path][1] != stamp}
    stale = {number for path, (number, stamp) in held.items() if stamps.get(path) != stamp}
    by_key = {part_key(path): path for path in new}
    for number, path, *stamp in _held(connection, schema, "key", by_key) if new else ():
        other = by_key[part_key(path)]
        if path in held:
            continue
        if (Stamp(*stamp).mtime_ns, path) > (new[other].mtime_ns, other):
            del new[other]
        else:
            stale.add(number)
    return new, stale, any(path not in stamps for path in held)


def _held(
    connection: duckdb.DuckDBPyConnection, schema: str, column: str, wanted: Iterable[str]
) -> list[tuple[int, str, int, int, int]]:
    connection.register("wanted", pa.table({column: pa.array(sorted(wanted), pa.string())}))
    sql = f"select id, path, size_bytes, mtime_ns, inode from {schema}.files semi join wanted using ({column})"  # noqa: S608
    found: list[tuple[int, str, int, int, int]] = connection.execute(sql).fetchall()
    connection.unregister("wanted")
    return found


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[object]]) -> None:
    if rows:
        arrays = [pa.array(column) for column in zip(*rows, strict=True)]
        connection.register("listed", pa.table(arrays, names=[f"c{i}" for i in range(len(arrays))]))
        connection.execute(f"insert into {table} select * from listed")  # noqa: S608
        connection.unregister("listed")
