"""How endpoints stood in the past: a line a change, and when nobody looked."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.endpoints.records import EndpointRecord, RecordStore
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.monitoring import Span, Stand, answering, expected

BEAT_S = 10.0
_MISSED_S = 3 * BEAT_S


class History:
    """`<folder>/<endpoint>.jsonl` has a `Stand` a line; `<folder>/.absences` a time range a line.

    The file `.beat` is touched as long as the controller watches, so that the next one knows since when nobody did.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[str, Stand] = {}

    def note(self, name: str, stand: Stand) -> None:
        """Add a line unless the endpoint stands as it did.

        Raises:
            OSError: it cannot be written.
        """
        last = self._last.get(name) or next(reversed(self.stands(name)), None)
        if last is None or last.model_copy(update={"at": stand.at}) != stand:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._path(name).open("ab+") as out:
                end = out.seek(0, os.SEEK_END)
                out.seek(max(0, end - 1))
                torn = out.read(1) not in (b"", b"\n")
                out.write((b"\n" if torn else b"") + stand.model_dump_json().encode() + b"\n")
            last = stand
        self._last[name] = last

    def stands(self, name: str) -> list[Stand]:
        """How the endpoint stood, oldest first. A line that a kill cut short is left out."""
        return [stand for line in _lines(self._path(name)) if (stand := _stand(line)) is not None]

    def forget(self, name: str) -> None:
        """The endpoint is deleted: another of its name begins anew."""
        self._last.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def begin(self) -> None:
        """A controller begins to watch: since the last beat nobody did.

        Raises:
            OSError: it cannot be written.
        """
        beat = self._folder / ".beat"
        if beat.is_file() and time.time() - beat.stat().st_mtime > _MISSED_S:
            last = datetime.fromtimestamp(beat.stat().st_mtime, UTC)
            with (self._folder / ".absences").open("a") as out:
                out.write(f"{last.isoformat()} {datetime.now(UTC).isoformat()}\n")
        self.beat()

    def beat(self) -> None:
        """The controller still watches.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / ".beat").touch()

    def absences(self) -> list[Span]:
        """When nobody watched."""
        pairs = [line.split() for line in _lines(self._folder / ".absences")]
        return [Span(datetime.fromisoformat(p[0]), datetime.fromisoformat(p[1])) for p in pairs if len(p) == 2]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.jsonl"


class WatchedRecords(RecordStore):
    """The records, each change of them noted in the history."""

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__(folder)
        self._history = history

    def save(self, record: EndpointRecord) -> None:
        """Note how it stands, then write the record.

        Raises:
            DiskFull: there is no room for it; the old record stays.
        """
        try:
            self._history.note(record.name, stand_of(record, datetime.now(UTC)))
        except OSError as error:
            raise DiskFull(f"The history of {record.name} cannot be written ({error.strerror}); free space.") from error
        super().save(record)

    def delete(self, name: str) -> None:
        super().delete(name)
        self._history.forget(name)


def stand_of(record: EndpointRecord, at: datetime) -> Stand:
    """How an endpoint stands at that time."""
    wanted = record.desired == "Running"
    state, condition = record.standing()
    ever_ready = any(replica.ever_ready for replica in record.replicas)
    return Stand(
        at=at,
        expected=expected(wanted=wanted, state=state, ever_ready=ever_ready),
        answering=answering(state, condition),
        replicas=0 if state is EndpointState.SLEEPING else len(record.started),
    )


def _stand(line: str) -> Stand | None:
    try:
        return Stand.model_validate_json(line)
    except ValidationError:
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
