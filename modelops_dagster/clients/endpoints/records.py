"""One JSON file per endpoint: what is wanted, what was started, and how it stands."""

import os
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from modelops_dagster.clients.endpoints.backend import Replica
from modelops_dagster.clients.endpoints.live import LiveEndpoint
from modelops_dagster.domain.endpoints import Condition, EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.lifecycle import Desired
from modelops_dagster.domain.values import Value

_ON_THE_WAY = frozenset(
    {EndpointState.SLEEPING, EndpointState.BUILDING, EndpointState.DEPLOYING, EndpointState.STARTUP}
)


class EndpointRecord(Value):
    """Everything the controller knows about one endpoint. Only the controller writes it."""

    spec: EndpointSpec
    desired: Desired
    state: EndpointState
    since: datetime = Field(description="when the state was entered, UTC")
    generation: int = Field(default=1, description="increases with every wish: apply, start, stop, restart, delete")
    replica_generation: int = Field(default=1, description="a replica of an older generation is replaced")
    replica: Replica | None = None
    condition: Condition | None = None
    reason: FailureReason | None = None
    message: str = ""
    log_tail: str = ""
    restarts: int = Field(default=0, description="starts after the first one since somebody last asked for it")
    failures: int = Field(default=0, description="failures in a row")
    ever_ready: bool = Field(default=False, description="has been Running since somebody last asked for it")
    retry_at: datetime | None = None
    start_seconds: float | None = None
    engine_version: str | None = None
    resting: bool = Field(default=False, description="about to sleep: nobody is sent there any more")
    deleting: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def outdated(self) -> bool:
        """The replica belongs to an earlier wish."""
        return self.replica is not None and self.replica.generation < self.replica_generation

    def status(self) -> EndpointStatus:
        """What the controller tells others."""
        wanted = self.desired == "Running" and not self.outdated
        answers = self.state is EndpointState.RUNNING and self.condition != "Unreachable" and not self.resting
        identity = self.replica.identity if self.replica else None
        return EndpointStatus(
            spec=self.spec,
            desired=self.desired,
            state=self.state,
            condition=self.condition,
            url=self.replica.url if self.replica is not None and wanted and answers else None,
            reason=self.reason,
            message=self.message,
            log_tail=self.log_tail,
            pid=identity.pid if identity else None,
            restarts=self.restarts,
            since=self.since,
            start_seconds=self.start_seconds,
            engine_version=self.engine_version,
        )

    def live(self) -> LiveEndpoint:
        """What the gateway is told."""
        url = self.status().url
        waiting = self.state in _ON_THE_WAY or self.resting
        return LiveEndpoint(
            name=self.name,
            served_model_name=self.spec.served_model_name,
            state=self.state,
            since=self.since,
            urls=(url,) if url else (),
            wakes=self.spec.scale_to_zero and self.desired == "Running" and waiting,
            start_seconds=self.start_seconds,
        )


class RecordStore:
    """The folder with the records. A record is whole or absent, whenever the writer is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load_all(self) -> tuple[dict[str, EndpointRecord], list[str]]:
        """Records by name, and a sentence for each file that cannot be read; such a file is put aside, not removed."""
        records: dict[str, EndpointRecord] = {}
        complaints: list[str] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = EndpointRecord.model_validate_json(path.read_bytes())
                if record.name != path.stem:
                    raise ValueError(f"it describes endpoint {record.name}")
            except (ValidationError, ValueError) as error:
                aside = path.with_suffix(".json.unreadable")
                path.replace(aside)
                first = str(error).splitlines()[0]
                complaints.append(f"The record {path} is not readable ({first}); it was renamed to {aside.name}.")
                continue
            records[record.name] = record
        return records, complaints

    def save(self, record: EndpointRecord) -> None:
        """Write the record so that a kill or a power cut leaves the old one or the new one.

        Raises:
            DiskFull: there is no room for it; the old record stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{record.name}.tmp"
        try:
            with draft.open("w") as out:
                out.write(record.model_dump_json(indent=1))
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self.folder / f"{record.name}.json")
        except OSError as error:
            raise DiskFull(
                f"{self.folder} cannot be written ({error.strerror}); free space or fix its rights."
            ) from error

    def delete(self, name: str) -> None:
        (self.folder / f"{name}.json").unlink(missing_ok=True)
