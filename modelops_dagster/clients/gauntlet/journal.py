"""What an unfinished suite run has got so far, one JSON line each, so that a killed run goes on where it stopped."""

import asyncio
import errno
import fcntl
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import orjson

from modelops_dagster.domain.errors import DiskFull, EvaluationFailed
from modelops_dagster.domain.gauntlet.grading import Judgement
from modelops_dagster.domain.gauntlet.rows import Row, RunContext
from modelops_dagster.domain.gauntlet.samples import digest


class _Lines:
    """An append-only file named after what is asked of whom; opened by one process at a time.

    The first line holds the full key. A last line without a newline is what a kill left: it is cut off.
    """

    def __init__(self, folder: Path, context: RunContext, key: str, what: str) -> None:
        self._key = key
        self._context = context
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = folder / f"{context.suite}-{name}{what}.jsonl"
        self._file = -1
        self._waiting: list[Mapping[str, Any]] = []
        self._failure: DiskFull | None = None

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
        self._write_waiting()
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
            self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        """Account for a line that was there."""
        raise NotImplementedError

    def _write_soon(self, value: Mapping[str, Any]) -> None:
        """Write with whatever else comes in this turn of the event loop: a kill in between loses that and no more."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting.append(value)

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            if waiting:
                self._write(*waiting)
        except DiskFull as error:  # raised in a callback it would end nothing
            self._failure = error

    def _write(self, *values: Mapping[str, Any]) -> None:
        line = b"".join([orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values])
        try:
            written = os.write(self._file, line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            written = 0
        if written < len(line):
            raise DiskFull(f"No space is left to write {self.path}: free some and start again; what is there is kept.")

    def remove(self) -> None:
        """Forget the run: what it got has landed."""
        self.path.unlink(missing_ok=True)


class Journal(_Lines):
    """The rows of one endpoint's answers."""

    def __init__(self, folder: Path, context: RunContext) -> None:
        super().__init__(folder, context, context.journal_key, "")
        self.rows: dict[tuple[str, int], Row] = {}

    def _take(self, line: dict[str, Any]) -> None:
        line |= {"run_id": self._context.run_id, "started_at": datetime.fromisoformat(line["started_at"])}
        line |= {"endpoint": self._context.endpoint.name, "suite_digest": self._context.suite_digest}
        self.rows[line["sample_id"], line["epoch"]] = line

    def append(self, row: Row) -> None:
        """Keep one row. Rows whose machinery failed are not kept: a resumed run asks them again.

        Raises:
            DiskFull: this row, or one just before it, could not be written.
        """
        self.rows[row["sample_id"], row["epoch"]] = row
        self._write_soon(row)
        if self._failure is not None:
            raise self._failure


class GradingJournal(_Lines):
    """What graders said of the answers of one run, both arms': calls that ended in a reply.

    A call is known by its grader, its order and repeat, and every word the grader was told; as often as the same call
    was made before, it is not made again.
    """

    def __init__(self, folder: Path, contexts: Iterable[RunContext]) -> None:
        arms = tuple(contexts)
        super().__init__(folder, arms[0], digest([arm.journal_key for arm in arms]), "-graders")
        self._known: dict[str, list[Judgement]] = defaultdict(list)

    def _take(self, line: dict[str, Any]) -> None:
        self._known[line["call"]].append(Judgement.model_validate(line["judgement"]))

    @staticmethod
    def call(grader: str, placement: str, repeat: int, messages: Sequence[Mapping[str, str]]) -> str:
        """What tells a call from any other."""
        return digest([grader, placement, repeat, list(messages)])

    def take(self, call: str) -> Judgement | None:
        """A judgement that an earlier process got by this call, each once."""
        known = self._known.get(call)
        return known.pop() if known else None

    def append(self, call: str, judgement: Judgement) -> None:
        """Keep what a call came to."""
        self._write({"call": call, "judgement": judgement.model_dump(mode="json")})
