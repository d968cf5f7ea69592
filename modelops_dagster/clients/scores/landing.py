"""Landing: one immutable Parquet file per table and part of a run.

No lock is needed: every writer owns its files, and a file appears whole (temporary name, then rename) or not at all.
"""

import contextlib
import errno
import hashlib
import os
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from modelops_dagster.domain.errors import DiskFull, InvalidSpec
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.scores import TABLES, ColumnType

ARROW: dict[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "float": pa.float64(),
    "int": pa.int64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
SCHEMAS = {table: pa.schema([(name, ARROW[kind]) for name, kind in columns]) for table, columns in TABLES.items()}
# What tells the parts of one run apart, where all rows of a part agree on it.
PART_COLUMNS = ("lane", "suite", "arm", "concurrency", "verdict_id")
LEFTOVER_S = 3600
DAY, MODEL = "day=", "model="
MAX_NAME = 200


class Stamp(NamedTuple):
    """Identity of a landed file's content: replacing the file changes at least one of the three."""

    size_bytes: int
    mtime_ns: int
    inode: int


class Landing:
    """The folders `landing/<table>/day=<UTC date>/<hour and minute>/`; any number of processes may write at once.

    A folder a minute, because a reader that holds a snapshot looks only into those that may have changed since. Older
    layouts had a folder `model=<quoted repo_id>` instead; their files are read where they are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, table: str, rows: Sequence[Row], *, repo_id: str, run_id: str, part: str | None = None) -> Path:
        """Write one file; the same part of the same run takes the place of its own file and of no other.

        Raises:
            InvalidSpec: no such table or column, a value of the wrong type, or a row of another model or run.
            DiskFull: the filesystem took only part of it; nothing is left.
        """
        body = _arrow_table(table, rows, {"repo_id": repo_id, "run_id": run_id})
        folder = self.root / table / f"{DAY}{slot(datetime.now(UTC))}"
        path = folder / _file_name(repo_id, run_id, _part(table, rows) if part is None else quote(part, safe=""))
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole = pa.BufferOutputStream()
            # files are small: a dictionary for each column costs more than it saves
            pq.write_table(body, whole, compression="zstd", use_dictionary=False)
            with temporary.open("wb") as out:
                out.write(whole.getvalue())
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"no space left for scores under {self.root}; free some and run it again.") from error
            raise
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return path

    def folders(self, since: str = "", tables: Collection[str] = tuple(TABLES)) -> dict[str, int]:
        """Every folder that files lie in, by its path relative to the root, and when its list of files changed last.

        Args:
            since: leave out the folders of earlier slots.
            tables: only folders of these.

        Returns:
            Times in ns, by the filesystem's clock.
        """
        found = {}
        for table in tables:
            for entry in _folders(self.root / table, since):
                with contextlib.suppress(FileNotFoundError):
                    found[os.path.relpath(entry.path, self.root)] = entry.stat().st_mtime_ns
        return found

    def mark(self, folders: Mapping[str, int]) -> dict[str, int]:
        """Give folders a time that no change gives them, so that whatever changes in them from now on is told by it.

        Two changes within one tick of a filesystem's clock leave one time; a change of a marked folder never leaves the
        mark, at whatever moment.

        Args:
            folders: the mark by path, in ns: well before now, so that no clock of a writer says it again.

        Returns:
            The time that each then has, in ns: its mark, as finely as the filesystem keeps times; another when it
            changed meanwhile, or cannot be marked, e.g. as it is somebody else's. Those that are gone are left out.
        """
        found = {}
        for path, mark_ns in folders.items():
            folder = self.root / path
            with contextlib.suppress(OSError):
                os.utime(folder, ns=(mark_ns, mark_ns))
            with contextlib.suppress(FileNotFoundError):
                found[path] = folder.stat().st_mtime_ns
        return found

    def stamps(self, folders: Iterable[str]) -> dict[str, Stamp]:
        """Every whole file of these folders that counts, by its path relative to the root.

        A part that landed twice, at different times, counts once, as it landed last.
        """
        found: dict[str, tuple[Stamp, str]] = {}
        for folder in folders:
            for entry in _entries(self.root / folder, ".parquet"):
                with contextlib.suppress(FileNotFoundError):
                    seen = entry.stat()
                    path = f"{folder}/{entry.name}"
                    stamp = Stamp(seen.st_size, seen.st_mtime_ns, seen.st_ino)
                    known = found.get(part_key(path))
                    if known is None or (known[0].mtime_ns, known[1]) < (stamp.mtime_ns, path):
                        found[part_key(path)] = stamp, path
        return {path: stamp for stamp, path in found.values()}

    def sweep(self) -> None:
        """Remove what killed writers left, once it is too old to be a write in progress."""
        for folder in self.folders():
            for entry in _entries(self.root / folder, ".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > LEFTOVER_S:
                        Path(entry.path).unlink()


def _entries(folder: Path, ending: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name.endswith(ending))


def _folders(table: Path, since: str) -> Iterator[os.DirEntry[str]]:
    """The folders that files lie in, from a slot on; from the first, also those of older layouts."""
    for below in os.scandir(table) if table.is_dir() else ():
        if below.name.startswith(MODEL) and not since:
            yield below
        elif below.name.startswith(DAY) and below.name.removeprefix(DAY) >= since[:10]:
            for minute in os.scandir(below.path):
                if f"{below.name.removeprefix(DAY)}/{minute.name}" >= since:
                    yield minute


def slot(at: datetime) -> str:
    """The part of the folder's name that says when, e.g. `2026-11-26/0812`; slots sort as time does."""
    return f"{at:%Y-%m-%d/%H%M}"


def folder_of(path: str) -> str:
    """The folder of a landed file."""
    return path.rpartition("/")[0]


def slot_of(folder: str) -> str:
    """The slot of a folder; of an older layout's, ''."""
    _, name, *minute = folder.split("/")
    return "/".join([name.removeprefix(DAY), *minute]) if name.startswith(DAY) else ""


def part_key(path: str) -> str:
    """What a landed file is the newest copy of: its table, model, run and part, whenever it landed."""
    table, folder, *_, name = path.split("/")
    return f"{table}/{folder.removeprefix(MODEL)}+{name}" if folder.startswith(MODEL) else f"{table}/{name}"


def _file_name(repo_id: str, run_id: str, part: str) -> str:
    """The part's name; one that a filesystem would refuse is cut, and told apart by its digest."""
    name = f"{quote(repo_id, safe='')}+{quote(run_id, safe='')}-{part}"
    if len(name) > MAX_NAME:
        name = f"{name[: MAX_NAME - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.parquet"


def _part(table: str, rows: Sequence[Row]) -> str:
    columns = [name for name, _ in TABLES[table]]
    shared = []
    for column in (c for c in PART_COLUMNS if c in columns):
        values = {row.get(column) for row in rows}
        if len(values) == 1 and None not in values:
            shared.append(quote(str(values.pop()), safe=""))
    return "-".join(shared) or "all"


def _cut(values: Sequence[Any]) -> Any:
    """The first that is no whole number; None where all are, or are missing."""
    if {*map(type, values)} <= {int, type(None)}:
        return None
    return next((value for value in values if value is not None and value != int(value)), None)


def _arrow_table(table: str, rows: Sequence[Row], identity: dict[str, str]) -> pa.Table:
    if table not in TABLES:
        raise InvalidSpec(f"there is no score table {table!r}; the tables are {', '.join(TABLES)}.", field="table")
    columns = dict(TABLES[table])
    if unknown := set().union(*rows) - columns.keys():
        raise InvalidSpec(f"table {table} has no column {min(unknown)!r}.", field=f"{table}.{min(unknown)}")
    arrays = []
    for name, kind in columns.items():
        values = [row.get(name) for row in rows]
        expected = identity.get(name)
        if expected is not None and values.count(expected) < len(values):
            other = next(value for value in values if value != expected)
            raise InvalidSpec(
                f"a row for table {table} has {name}={other!r} but belongs to {expected!r}; "
                "land each model and run by itself.",
                field=f"{table}.{name}",
            )
        try:
            arrays.append(pa.array(values, ARROW[kind]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            first = str(error).splitlines()[0]
            raise InvalidSpec(
                f"column {name} of table {table} holds {kind} values: {first}.", field=f"{table}.{name}"
            ) from error
        # Arrow cuts 1.5 to 1 without a word
        cut = _cut(values) if kind == "int" else None
        if cut is not None:
            raise InvalidSpec(f"column {name} of table {table} holds int values, not {cut!r}.", field=f"{table}.{name}")
    return pa.table(arrays, schema=SCHEMAS[table])
