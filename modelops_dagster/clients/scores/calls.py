"""The gateway's call log as a table of the score history: without what was said, which stays where it was logged."""

import time
from collections.abc import Iterable, Iterator, Set
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from modelops_dagster.clients.calls import MAX_AGE_S, SCHEMA
from modelops_dagster.domain.scores import ColumnType

# column -> its kind and what it is in the log
CALLS: dict[str, tuple[ColumnType, str]] = {
    "time": ("timestamp", "time"),
    "call_id": ("text", "call_id"),
    "key_id": ("text", "key_id"),
    "key_alias": ("text", "key_alias"),
    "team": ("text", "team"),
    "alias": ("text", "alias"),
    "endpoint": ("text", "endpoint"),
    "commit_hash": ("text", "commit_hash"),
    "is_stream": ("int", "stream"),
    "is_batch": ("int", "batch"),
    "is_shadow": ("int", "shadow"),
    "status": ("int", "status"),
    "error": ("text", "error"),
    "tokens_in": ("int", "prompt_tokens"),
    "tokens_out": ("int", "completion_tokens"),
    "tokens_cached": ("int", "cached_tokens"),
    "cost_usd": ("float", "cost_usd"),
    "latency_ms": ("float", "latency_s * 1000"),
    "ttft_ms": ("float", "ttft_s * 1000"),
    # endpoints that were tried before the one that answered
    "failed_attempts": ("int", "coalesce(len(failures), 0)"),
}
CALL_COLUMNS: tuple[tuple[str, ColumnType], ...] = tuple((name, kind) for name, (kind, _) in CALLS.items())
_READ = [field.name for field in SCHEMA if field.name not in {"prompt", "completion"}]


class CallLog:
    """The files of `clients.calls`, `<root>/<date>/<worker>-<number>.parquet`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def closed(self, known: Set[str]) -> list[str]:
        """Files that grow no more and are not known, by their path relative to the folder."""
        settled = time.time() - 2 * MAX_AGE_S
        return sorted(p.relative_to(self.root).as_posix() for p in self._files(None, known, settled))

    def since(self, first: str | None, known: Set[str]) -> list[str]:
        """Every file from a slot's day on that is not known, whether it still grows or not."""
        return sorted(p.relative_to(self.root).as_posix() for p in self._files(first, known, None))

    def load(
        self, connection: duckdb.DuckDBPyConnection, table: str, listing: str | None, paths: Iterable[str]
    ) -> None:
        """Add the files' calls to a table, and their names to the list of those that were read."""
        for path in paths:
            # opened once, and so whole: a file grows by being replaced, and DuckDB opens what it reads twice
            whole = pq.ParquetFile(self.root / path)
            rows = whole.read(columns=[name for name in whole.schema_arrow.names if name in _READ])
            read = pa.schema([SCHEMA.field(name) for name in _READ])
            connection.register("calls_read", pa.concat_tables([read.empty_table(), rows], promote_options="default"))
            what = ", ".join(source for _, source in CALLS.values())
            connection.execute(f"insert into {table} select {what}, 0 from calls_read")  # noqa: S608
            connection.unregister("calls_read")
            if listing is not None:
                connection.execute(f"insert into {listing} values (?)", [path])  # noqa: S608

    def _files(self, first: str | None, known: Set[str], settled: float | None) -> Iterator[Path]:
        # a file may go on for some minutes into the day after the one it is named by
        earliest = f"{date.fromisoformat(first[:10]) - timedelta(days=1)}" if first else ""
        for day in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if day.name >= earliest and day.is_dir():
                for path in day.glob("*.parquet"):
                    if f"{day.name}/{path.name}" in known:
                        continue
                    if settled is None or path.stat().st_mtime < settled:
                        yield path
