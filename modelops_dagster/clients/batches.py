"""Batches and their files on disk. One runner answers them; whoever submits, asks or cancels only writes documents."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import Field

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.batch import Batch, BatchRequest, answered_ids, parse_requests
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

WINDOW = timedelta(hours=24)
_ID = re.compile(r"(file|batch)-[0-9a-f]{24}")


class StoredFile(Value):
    """What is known of an uploaded file or of a batch's output."""

    file_id: str
    key_id: str = Field(description="whose it is; nobody else sees it")
    filename: str
    purpose: str
    created_at: datetime


class BatchStore:
    """`<root>/files/<file id>.jsonl` with a `.json` beside it, and `<root>/batches/<batch id>.json`."""

    def __init__(self, root: Path) -> None:
        self._files = root / "files"
        self._batches = root / "batches"

    # --- files ------------------------------------------------------------------------------------------------------

    def add_file(self, key_id: str, filename: str, content: bytes, purpose: str = "batch") -> StoredFile:
        """Keep a file, for its owner only."""
        record = self._new_file(key_id, filename, purpose)
        path = self.file_path(record.file_id)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        return record

    def file(self, key_id: str, file_id: str) -> StoredFile | None:
        """The file's record; None when there is no such file of this key."""
        path = self._files / f"{file_id}.json"
        if not _ID.fullmatch(file_id) or not path.is_file():
            return None
        record = StoredFile.model_validate_json(path.read_text())
        return record if record.key_id == key_id else None

    def files(self, key_id: str) -> list[StoredFile]:
        """The files of a key, newest first."""
        records = (StoredFile.model_validate_json(p.read_text()) for p in self._files.glob("*.json"))
        return sorted((r for r in records if r.key_id == key_id), key=lambda r: r.created_at, reverse=True)

    def file_path(self, file_id: str) -> Path:
        """Where the content is; an output that has no line yet is not there."""
        return self._files / f"{file_id}.jsonl"

    def delete_file(self, file_id: str) -> None:
        """Remove a file that was uploaded or made by a batch."""
        (self._files / f"{file_id}.json").unlink(missing_ok=True)
        self.file_path(file_id).unlink(missing_ok=True)

    # --- batches ----------------------------------------------------------------------------------------------------

    def submit(
        self, key_id: str, input_file_id: str, *, endpoint: str | None = None, metadata: dict[str, str] | None = None
    ) -> Batch:
        """Make a batch of an uploaded file. The whole file is checked first.

        Raises:
            InvalidSpec: there is no such file of this key, or a line of it does not hold.
        """
        if self.file(key_id, input_file_id) is None:
            raise InvalidSpec(f"there is no file {input_file_id!r}; upload it first.", field="input_file_id")
        found = list(self.requests(input_file_id))
        if endpoint not in (None, found[0].url):
            raise InvalidSpec(f"the requests go to {found[0].url} and the batch to {endpoint}.", field="endpoint")
        now = datetime.now(UTC)
        batch = Batch(
            batch_id=_new_id("batch"),
            key_id=key_id,
            endpoint=found[0].url,
            input_file_id=input_file_id,
            output_file_id=self._new_file(key_id, "output.jsonl", "batch_output").file_id,
            error_file_id=self._new_file(key_id, "errors.jsonl", "batch_output").file_id,
            total=len(found),
            created_at=now,
            expires_at=now + WINDOW,
            metadata=metadata or {},
        )
        self._write(batch)
        return batch

    def get(self, batch_id: str, key_id: str | None = None) -> Batch | None:
        """The batch; None when there is none, or none of this key."""
        path = self._batches / f"{batch_id}.json"
        if not _ID.fullmatch(batch_id) or not path.is_file():
            return None
        batch = Batch.model_validate_json(path.read_text())
        return batch if key_id in (None, batch.key_id) else None

    def list(self, key_id: str | None = None) -> "list[Batch]":
        """Batches, newest first; those of one key where it is given."""
        found = (Batch.model_validate_json(p.read_text()) for p in self._batches.glob("*.json"))
        return sorted((b for b in found if key_id in (None, b.key_id)), key=lambda b: b.created_at, reverse=True)

    def cancel(self, batch_id: str) -> Batch:
        """Ask for no more answers; those that are there stay.

        Raises:
            InvalidSpec: there is no such batch.
        """
        return self.change(batch_id, state="cancelling")

    def change(self, batch_id: str, **changes: object) -> Batch:
        """Write changes of an active batch; one that ended is left as it is.

        Raises:
            InvalidSpec: there is no such batch.
        """
        with self._locked():
            batch = self.get(batch_id)
            if batch is None:
                raise InvalidSpec(
                    f"there is no batch {batch_id!r}; `modelops batch list` shows them.", field="batch_id"
                )
            if batch.active:
                if batch.state == "cancelling" and changes.get("state") == "in_progress":
                    changes.pop("state")
                batch = batch.model_copy(update=changes)
                self._write(batch)
            return batch

    def requests(self, file_id: str) -> Iterator[BatchRequest]:
        """The requests of an input file.

        Raises:
            InvalidSpec: a line does not hold.
        """
        with self.file_path(file_id).open(encoding="utf-8", errors="replace") as lines:
            yield from parse_requests(lines)

    def answered(self, batch: Batch) -> tuple[set[str], set[str]]:
        """custom_ids with an answer and with an error. A line that a kill cut short is taken away first."""
        return self._answered(batch.output_file_id), self._answered(batch.error_file_id)

    def append(self, file_id: str, lines: Iterable[str]) -> None:
        """Add whole lines to a batch's output."""
        descriptor = os.open(self.file_path(file_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as out:
            out.write("".join(lines).encode())

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Whether this process is the one that answers batches; it is until it leaves the context."""
        with (self._batches / ".runner").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def prepare(self) -> None:
        """Make the folders, for the owner of the home only."""
        for folder in (self._files, self._batches):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _answered(self, file_id: str) -> set[str]:
        path = self.file_path(file_id)
        if not path.is_file():
            return set()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        return answered_ids(whole.decode().splitlines(keepends=True))

    def _new_file(self, key_id: str, filename: str, purpose: str) -> StoredFile:
        self.prepare()
        record = StoredFile(
            file_id=_new_id("file"), key_id=key_id, filename=filename, purpose=purpose, created_at=datetime.now(UTC)
        )
        write_whole(self._files / f"{record.file_id}.json", record.model_dump_json() + "\n", is_private=True)
        return record

    def _write(self, batch: Batch) -> None:
        write_whole(self._batches / f"{batch.batch_id}.json", batch.model_dump_json(indent=1) + "\n", is_private=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.prepare()
        with (self._batches / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def is_batch_id(text: str) -> bool:
    """Whether `text` can be the id of a batch."""
    return text.startswith("batch-") and bool(_ID.fullmatch(text))


def _new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"
