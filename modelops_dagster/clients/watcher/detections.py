"""Detections that have to lead to something, as a file that only grows. Readers keep their own place in it."""

import os
import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from modelops_dagster.domain.values import Value
from modelops_dagster.domain.watcher import Detection

HEADER = "detections "


class LoggedDetection(Value):
    """One line of the log."""

    entry: str = Field(description="organisation, number of the read, place in it; the same after a repeated write")
    at: datetime
    detection: Detection

    @property
    def org(self) -> str:
        return self.detection.repo_id.partition("/")[0]


class Position(Value):
    """How far a reader came. Another log (the home was made anew) starts it from the beginning."""

    log: str = ""
    offset: int = 0


class Page(NamedTuple):
    entries: list[LoggedDetection]
    next: Position


class DetectionLog:
    """`<root>/detections.jsonl`. One writer at a time, which whoever holds the Watcher's lock is; readers need none.

    A line counts when its end is written. What a killed writer left of a line is cut off by the next one.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.path = root / "detections.jsonl"
        self._durable = durable

    def append(self, entries: Sequence[LoggedDetection]) -> None:
        """Write entries at the end, all of them on the disk when this returns."""
        self.prepare()
        with self.path.open("ab") as out:
            out.write(b"".join(e.model_dump_json().encode() + b"\n" for e in entries))
            out.flush()
            if self._durable:
                os.fsync(out.fileno())

    def has(self, entries: Collection[str]) -> set[str]:
        """Which of these entry names are in the log."""
        return {e.entry for e in self.read(Position(), limit=None).entries if e.entry in set(entries)}

    def first_seen(self, repo_id: str, commit_hash: str) -> datetime | None:
        """When a commit that was onboarded appeared on the Hub: the first read that listed it, UTC; None: not by us."""
        for entry in self.read(Position(), limit=None, mentioning=commit_hash).entries:
            found = entry.detection
            if (found.repo_id, found.commit_hash, found.decision) == (repo_id, commit_hash, "onboard"):
                return found.first_seen or entry.at
        return None

    def read(self, position: Position, *, limit: int | None, mentioning: str = "") -> Page:
        """Entries after `position` that mention a text, at most `limit`, and the position after the last of them."""
        try:
            with self.path.open("rb") as lines:
                header = lines.readline()
                log = header.decode(errors="replace").removeprefix(HEADER).strip()
                offset = position.offset if position.log == log and position.offset else len(header)
                lines.seek(offset)
                entries: list[LoggedDetection] = []
                for line in lines:
                    if not line.endswith(b"\n") or (limit is not None and len(entries) >= limit):
                        break
                    offset += len(line)
                    if mentioning.encode() not in line:
                        continue
                    try:
                        entries.append(LoggedDetection.model_validate_json(line))
                    except ValidationError:
                        continue  # somebody edited it; one line must not hold the others back
        except FileNotFoundError:
            return Page([], position)
        return Page(entries, Position(log=log, offset=offset))

    def prepare(self) -> None:
        """Make the log, or cut off a line that has no end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            draft = self.path.with_suffix(".tmp")
            draft.write_text(f"{HEADER}{uuid.uuid4().hex}\n")
            draft.replace(self.path)
        with self.path.open("rb+") as log:
            size = log.seek(0, os.SEEK_END)
            if size == 0:
                return
            log.seek(size - 1)
            if log.read(1) != b"\n":
                log.seek(0)
                log.truncate(log.read().rfind(b"\n") + 1)
