"""The Watcher's state under `<home>/watcher/`, shared by the sensor, the command line and the controller.

    orgs/<org>.json     what was decided of one organisation, and the detections of its last read
    detections.jsonl    detections that have to lead to something, in order (`detections.py`)
    unfinished/<org>    exists between a read that detected something and its lines in the log
    nudges/<org>        the Hub said that something happened there
    schedule.json       when each organisation is read next; may be lost
    .lock               held for a tick

State and detections of a read are one atomic write. So after a kill at any point either the read never happened, or its
detections are on disk and the next writer puts them into the log, once.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from modelops_dagster.clients.watcher.detections import DetectionLog, LoggedDetection
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import Conflict, IntegrityError
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.watch_schedule import OrgSchedule
from modelops_dagster.domain.watcher import Detection, OrgState
from modelops_dagster.domain.watchlist import is_org

_SCHEDULE = TypeAdapter(dict[str, OrgSchedule])


class OrgRecord(Value):
    """One file under `orgs/`."""

    reads: int = Field(default=0, description="reads that changed something")
    state: OrgState
    found: tuple[LoggedDetection, ...] = Field(default=(), description="by the last of those reads")


class WatchStore:
    """The Watcher's folder. Everything that writes it, except `nudge`, holds `lock`.

    Args:
        root: `<home>/watcher`.
        durable: survive a power cut and not only a kill; a simulation can do without.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self.log = DetectionLog(root, durable=durable)
        self._durable = durable

    @contextmanager
    def lock(self, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the state; the kernel frees it when the holder ends, however it ends.

        Raises:
            Conflict: somebody else held it for longer than `wait_s`.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as file:
            deadline = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Conflict(
                            f"another tick of the Watcher is under way in {self.root}: wait until it has ended."
                        ) from None
                    time.sleep(0.1)
            self._finish()
            yield

    # --- organisations

    def record(self, org: str) -> OrgRecord | None:
        """What is known of an organisation; None when it was never read.

        Raises:
            IntegrityError: the file is not a record.
        """
        path = self._org_path(org)
        try:
            return OrgRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise IntegrityError(
                f"{path} is not a record of the Watcher ({counted(error.error_count(), 'error')}): restore it from a "
                "backup, or remove it to make what is on the Hub now the baseline."
            ) from error

    def orgs(self) -> list[str]:
        """Organisations that were read at least once."""
        return sorted(p.name.removesuffix(".json") for p in (self.root / "orgs").glob("[!.]*.json"))

    def commit(self, org: str, before: OrgRecord | None, state: OrgState, detections: Sequence[Detection]) -> None:
        """Make a read hold: its state, and those of its detections that have to lead to something."""
        if before is not None and state == before.state and not detections:
            return
        reads = (before.reads if before is not None else 0) + 1
        now = datetime.now(UTC)
        acted_on = [d for d in detections if d.decision != "skip"]
        found = tuple(LoggedDetection(entry=f"{org}:{reads}:{n}", at=now, detection=d) for n, d in enumerate(acted_on))
        if before is None:
            self.log.prepare()  # its readers then know that there is a baseline
        if found:
            self._mark(org)
        self._write_org(org, OrgRecord(reads=reads, state=state, found=found))
        if found:
            self._append(found)
            self._unmark(org)

    def _finish(self) -> None:
        """Complete what a killed writer began."""
        for org in self._names("unfinished"):
            try:
                record = self.record(org)
            except IntegrityError:
                continue  # its next read says so; the other organisations go on
            found = record.found if record is not None else ()
            present = self.log.has([e.entry for e in found])
            if lacking := [e for e in found if e.entry not in present]:
                self._append(lacking)
            self._unmark(org)

    def _mark(self, org: str) -> None:
        self._write(self.root / "unfinished" / org, b"")
        if self._durable:  # the name has to be on the disk before the record is
            folder = os.open(self.root / "unfinished", os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _write_org(self, org: str, record: OrgRecord) -> None:
        self._write(self._org_path(org), record.model_dump_json(by_alias=True, exclude_defaults=True).encode())

    def _append(self, found: Sequence[LoggedDetection]) -> None:
        self.log.append(found)

    def _unmark(self, org: str) -> None:
        (self.root / "unfinished" / org).unlink(missing_ok=True)

    # --- when to read

    def schedule(self) -> dict[str, OrgSchedule]:
        """When each organisation is read next; empty when the file is lost, so that all are."""
        try:
            return _SCHEDULE.validate_json((self.root / "schedule.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return {}

    def write_schedule(self, schedule: Mapping[str, OrgSchedule]) -> None:
        content = {k: v.model_dump(exclude_defaults=True) for k, v in schedule.items()}
        self._write(self.root / "schedule.json", json.dumps(content).encode(), durable=False)

    def nudge(self, org: str) -> None:
        """Ask for a read at the next tick."""
        self._write(self.root / "nudges" / org, b"", durable=False)

    def nudged(self) -> frozenset[str]:
        """Organisations that were nudged and not read since."""
        return frozenset(self._names("nudges"))

    def forget_nudge(self, org: str) -> None:
        (self.root / "nudges" / org).unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Of the state of all organisations."""
        return sum(p.stat().st_size for p in (self.root / "orgs").glob("[!.]*.json"))

    # --- files

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.root / folder) if is_org(n))  # noqa: PTH208 - every tick does it
        except FileNotFoundError:
            return []

    def _org_path(self, org: str) -> Path:
        return self.root / "orgs" / f"{org}.json"

    def _write(self, path: Path, content: bytes, *, durable: bool | None = None) -> None:
        write_whole(path, content, is_durable=self._durable if durable is None else durable)
