"""Rows of an unfinished suite run, one JSON line each, so that a killed run goes on where it stopped."""

import errno
import fcntl
import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Self

import orjson

from modelops_dagster.domain.errors import DiskFull, EvaluationFailed
from modelops_dagster.domain.gauntlet.rows import Row, RunContext


class Journal:
    """An append-only file named after what is asked of whom; opened by one process at a time.

    The first line holds the full key. A last line without a newline is what a kill left: it is cut off.
    """

    def __init__(self, folder: Path, context: RunContext) -> None:
        self._key = context.journal_key
        self._context = context
        name = hashlib.sha256(self._key.encode()).hexdigest()[:16]
        self.path = folder / f"{context.suite}-{name}.jsonl"
        self.rows: dict[tuple[str, int], Row] = {}
        self._file = -1

    def __enter__(self) -> Self:
        """Open, lock and read.

        Raises:
            EvaluationFailed: another process is asking the same suite of the same endpoint.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise EvaluationFailed(
                f"Suite {self._context.suite!r} is being asked of {self._context.endpoint.name!r} by another process: "
                "wait for it to end."
            ) from error
        self._read()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _read(self) -> None:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if not lines or json.loads(lines[0]) != {"key": self._key}:
            os.ftruncate(self._file, 0)
            self._write({"key": self._key})
            return
        os.ftruncate(self._file, len(whole))
        for line in lines[1:]:
            row = json.loads(line)
            row |= {"run_id": self._context.run_id, "started_at": datetime.fromisoformat(row["started_at"])}
            row |= {"endpoint": self._context.endpoint.name}
            self.rows[row["sample_id"], row["epoch"]] = row

    def _write(self, value: Row) -> None:
        line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
        try:
            written = os.write(self._file, line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            written = 0
        if written < len(line):
            raise DiskFull(f"No space is left to write {self.path}: free some and start again; what is there is kept.")

    def append(self, row: Row) -> None:
        """Keep one row. Rows whose machinery failed are not kept: a resumed run asks them again."""
        self.rows[row["sample_id"], row["epoch"]] = row
        self._write(row)

    def remove(self) -> None:
        """Forget the run: its rows have landed."""
        self.path.unlink(missing_ok=True)
