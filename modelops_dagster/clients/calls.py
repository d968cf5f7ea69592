"""The call log on disk: Parquet files that only grow, and what they say about spending.

Each worker writes a file of its own, `<root>/<date>/<worker>-<number>.parquet`. A file grows by being replaced whole,
so a reader sees each row once, at any time; after some thousand rows or ten minutes it is closed and stays as it is.
"""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modelops_dagster.domain.errors import InvalidSpec

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("ms", tz="UTC")),
        ("call_id", pa.string()),
        ("key_id", pa.string()),
        ("key_alias", pa.string()),
        ("team", pa.string()),
        ("path", pa.string()),
        ("alias", pa.string()),
        ("deployment", pa.string()),
        ("endpoint", pa.string()),
        ("commit_hash", pa.string()),
        ("stream", pa.bool_()),
        ("batch", pa.bool_()),
        ("shadow", pa.bool_()),
        ("status", pa.int32()),
        ("error", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("latency_s", pa.float64()),
        ("ttft_s", pa.float64()),
        (
            "failures",
            pa.list_(pa.struct([("deployment", pa.string()), ("error", pa.string()), ("status", pa.string())])),
        ),
        ("prompt", pa.string()),
        ("completion", pa.string()),
    ]
)
MAX_ROWS = 2048
MAX_AGE_S = 600.0
CLIENT_LEFT = 499
UNFINISHED = "Unfinished"
# what an engine answers when the fault is the client's: it says nothing about the engine
CLIENTS_FAULT = frozenset({"400", "401", "403", "404", "405", "413", "422"})
GROUPS = {"team": "team", "key": "key_alias", "alias": "alias", "endpoint": "endpoint", "model": "commit_hash"}


class CallFile:
    """The file that one worker writes to. `append` is called from one thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._worker = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._number = 0
        self._batches: list[pa.RecordBatch] = []
        self._path, self._begun_s = self._begin()

    def append(self, rows: Sequence[Mapping[str, object]], unfinished: Sequence[Mapping[str, object]] = ()) -> None:
        """Write rows that are final, and after them rows that are not: those are written again next time.

        Raises:
            OSError: nothing was written, and the file is as it was; call again with the same rows.
        """
        batches = [*self._batches, *([_batch(rows)] if rows else [])]
        shown = [*batches, *([_batch(unfinished)] if unfinished else [])]
        count = sum(b.num_rows for b in batches)
        full = count >= MAX_ROWS or time.monotonic() - self._begun_s > MAX_AGE_S
        _replace(self._path, pa.Table.from_batches(batches if full else shown, SCHEMA))
        self._batches = batches
        if full or (self._path.parent.name != _today() and not unfinished):
            self._batches = []
            self._path, self._begun_s = self._begin()

    def _begin(self) -> tuple[Path, float]:
        """The next file, and when it was begun."""
        self._number += 1
        return self._root / _today() / f"{self._worker}-{self._number:04d}.parquet", time.monotonic()


def spend(root: Path, by: str, since: datetime) -> list[dict[str, Any]]:
    """What was called and what it cost since then, most expensive first.

    Args:
        root: of the call log.
        by: one of `GROUPS`.
        since: UTC.

    Raises:
        InvalidSpec: there is no such grouping.
    """
    if by not in GROUPS:
        raise InvalidSpec(f"spending is not told by {by!r}; choose one of {', '.join(GROUPS)}.", field="by")
    query = f"""
        SELECT {GROUPS[by]} AS name, count(*) AS calls,
               count(*) FILTER (WHERE status <> 200 OR error IS NOT NULL) AS failed,
               coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
               coalesce(sum(completion_tokens), 0) AS completion_tokens,
               coalesce(sum(cached_tokens), 0) AS cached_tokens,
               coalesce(sum(cost_usd), 0.0) AS cost_usd
        FROM calls WHERE NOT shadow AND key_id IS NOT NULL
        GROUP BY 1 ORDER BY cost_usd DESC, calls DESC
    """  # noqa: S608 - the column is one of five of ours
    return query_calls(root, query, since=since)


def query_calls(root: Path, query: str, *, since: datetime) -> list[dict[str, Any]]:
    """Rows of a query over the table `calls`, which holds the calls that began since then.

    A file that may still grow is opened once and read into memory: DuckDB opens a file twice, and between the two it
    may be replaced.

    Raises:
        InvalidSpec: the query does not hold.
    """
    import duckdb

    # a file may go on for some minutes into the day after the one it is named by
    first = (since.astimezone(UTC) - timedelta(days=1)).date().isoformat()
    files = [p for p in sorted(root.glob("*/*.parquet")) if p.parent.name >= first]
    settled = time.time() - 2 * MAX_AGE_S
    growing = [p for p in files if p.stat().st_mtime > settled]
    closed = [str(p) for p in files if p not in growing]
    parts = [pq.ParquetFile(p).read() for p in growing]
    young = pa.concat_tables([SCHEMA.empty_table(), *parts], promote_options="default")
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("young", young)
        if closed:
            db.from_parquet(closed, union_by_name=True).create_view("closed")
        both = "SELECT * FROM closed UNION ALL BY NAME SELECT * FROM young" if closed else "SELECT * FROM young"
        began = since.astimezone(UTC).isoformat()
        db.execute(f"CREATE VIEW calls AS SELECT * FROM ({both}) WHERE time >= TIMESTAMPTZ '{began}'")  # noqa: S608
        try:
            found = db.execute(query)
        except duckdb.Error as error:
            raise InvalidSpec(f"the query does not hold: {error}", field="sql") from error
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _batch(rows: Sequence[Mapping[str, object]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict(row) for row in rows], schema=SCHEMA)


def _replace(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
