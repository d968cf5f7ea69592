"""One JSON file per endpoint: what is wanted, what was started, and how it stands."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from modelops_dagster.clients.endpoints.backend import Replica
from modelops_dagster.clients.endpoints.live import LiveEndpoint
from modelops_dagster.domain.endpoints import Condition, EndpointSpec, EndpointState, EndpointStatus, ReplicaStatus
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.lifecycle import Desired
from modelops_dagster.domain.values import Value

# An endpoint stands as its best replica does; one that fails among others is what makes it Degraded.
_BEST_FIRST = (
    EndpointState.RUNNING,
    EndpointState.STARTUP,
    EndpointState.DEPLOYING,
    EndpointState.BUILDING,
    EndpointState.SLEEPING,
    EndpointState.RUNTIME_ERROR,
    EndpointState.DEPLOY_FAILED,
    EndpointState.BUILDING_FAILED,
    EndpointState.STOPPED,
)
_ON_THE_WAY = frozenset(
    {EndpointState.SLEEPING, EndpointState.BUILDING, EndpointState.DEPLOYING, EndpointState.STARTUP}
)


class ReplicaRecord(Value):
    """One place for an engine of an endpoint: what was started there last, and how it stands."""

    state: EndpointState
    since: datetime = Field(description="when the state was entered, UTC")
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
    waits_for: str = Field(default="", description="why it is not started yet, as a sentence; empty: it does not wait")
    resting: bool = Field(default=False, description="about to sleep: nobody is sent there any more")
    addresses: tuple[str, ...] = Field(
        default=(), description="base URLs of the pods, where a cluster holds several; empty: the replica's own"
    )


class EndpointRecord(ReplicaRecord):
    """Everything the controller knows about one endpoint. Only the controller writes it.

    The fields of its first replica, which every endpoint has, are the record's own; `others` has the rest.
    """

    spec: EndpointSpec
    desired: Desired
    generation: int = Field(default=1, description="increases with every wish: apply, start, stop, restart, delete")
    replica_generation: int = Field(default=1, description="a replica of an older generation is replaced")
    others: tuple[ReplicaRecord, ...] = Field(default=(), description="replicas 1, 2, ...")
    scaled_to: int | None = Field(default=None, description="replicas the traffic asks for; None: the fewest allowed")
    on_cluster: bool = Field(default=False, description="the cluster holds its replicas: one place here stands for all")
    deleting: bool = False

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def wanted(self) -> int:
        """Replicas there should be while the endpoint is wanted."""
        if self.on_cluster:
            return 1
        fewest = max(1, self.spec.min_replicas)
        return min(max(fewest, self.scaled_to or 0), max(fewest, self.spec.max_replicas))

    @property
    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """Every replica, by its number."""
        return (self, *self.others)

    @property
    def started(self) -> tuple[Replica, ...]:
        """What was launched and not ended yet."""
        return tuple(r.replica for r in self.replicas if r.replica is not None)

    def desired_of(self, index: int) -> Desired:
        """What is wanted of one replica."""
        return "Running" if self.desired == "Running" and index < self.wanted else "Stopped"

    def is_outdated(self, index: int) -> bool:
        """Whether the replica belongs to an earlier wish."""
        replica = self.replicas[index].replica
        return replica is not None and replica.generation < self.replica_generation

    def with_replica(self, index: int, **changes: Any) -> Self:
        """The record with changes to one replica."""
        if index == 0:
            return self.model_copy(update=changes)
        changed = [r.model_copy(update=changes) if n == index else r for n, r in enumerate(self.others, 1)]
        return self.model_copy(update={"others": tuple(changed)})

    def fitted(self, now: datetime) -> Self:
        """The record with a place for every replica that is wanted, and without the last ones that are not there.

        Numbers do not change: a place in the middle stays until those behind it are gone.
        """
        others = list(self.others)
        if self.desired == "Running":
            missing = self.wanted - 1 - len(others)
            others += [ReplicaRecord(state=EndpointState.BUILDING, since=now) for _ in range(missing)]
        while others and self.desired_of(len(others)) == "Stopped" and others[-1].state is EndpointState.STOPPED:
            if others[-1].replica is not None:
                break
            others.pop()
        return self.model_copy(update={"others": tuple(others)})

    def urls(self) -> tuple[str, ...]:
        """Where it answers now."""
        found = [(self._url(index), replica.addresses) for index, replica in enumerate(self.replicas)]
        return tuple(each for url, several in found if url is not None for each in several or (url,))

    def _url(self, index: int) -> str | None:
        replica = self.replicas[index]
        wanted = self.desired_of(index) == "Running" and not self.is_outdated(index)
        answers = replica.state is EndpointState.RUNNING and replica.condition != "Unreachable" and not replica.resting
        return replica.replica.url if replica.replica is not None and wanted and answers else None

    def _lead(self) -> tuple[ReplicaRecord, ReplicaRecord | None]:
        """The replica that is furthest; and one that is not as far, where that makes the endpoint Degraded."""
        counted = [r for n, r in enumerate(self.replicas) if self.desired_of(n) == "Running"] or list(self.replicas)
        lead = min(counted, key=lambda replica: _BEST_FIRST.index(replica.state))
        if lead.state is not EndpointState.RUNNING or lead.condition is not None:
            return lead, None
        return lead, next((r for r in counted if r.state is not lead.state), None)

    def standing(self) -> tuple[EndpointState, Condition | None]:
        """State and condition of the endpoint, without everything else that `status` tells."""
        lead, lacking = self._lead()
        return lead.state, "Degraded" if lacking else lead.condition

    def status(self) -> EndpointStatus:
        """What the controller tells others: the state of the replica that is furthest, and what is amiss with any."""
        lead, lacking = self._lead()
        urls = [url for index in range(len(self.replicas)) if (url := self._url(index)) is not None]
        told = lacking or lead
        pids = [replica.identity.pid for replica in self.started if replica.identity is not None]
        return EndpointStatus(
            spec=self.spec,
            desired=self.desired,
            state=lead.state,
            condition=self.standing()[1],
            url=urls[0] if urls else None,
            reason=told.reason,
            message=told.waits_for
            or told.message
            or (f"{len(urls)} of {self.wanted} replicas answer." if lacking else ""),
            queued=bool(lead.waits_for),
            log_tail=told.log_tail,
            pid=pids[0] if pids else None,
            restarts=sum(replica.restarts for replica in self.replicas),
            since=lead.since,
            start_seconds=lead.start_seconds,
            engine_version=lead.engine_version,
            replicas=tuple(self._replica_status(index) for index in range(len(self.replicas))),
        )

    def _replica_status(self, index: int) -> ReplicaStatus:
        replica = self.replicas[index]
        identity = replica.replica.identity if replica.replica else None
        return ReplicaStatus(
            index=index,
            state=replica.state,
            condition=replica.condition,
            url=self._url(index),
            pid=identity.pid if identity else None,
            message=replica.waits_for or replica.message,
            devices=replica.replica.devices if replica.replica else (),
            restarts=replica.restarts,
            since=replica.since,
        )

    def live(self) -> LiveEndpoint:
        """What the gateway is told."""
        lead, _ = self._lead()
        waiting = lead.state in _ON_THE_WAY or any(replica.resting for replica in self.replicas)
        return LiveEndpoint(
            name=self.name,
            served_model_name=self.spec.served_model_name,
            state=lead.state,
            since=lead.since,
            urls=self.urls(),
            wakes=self.spec.scale_to_zero and self.desired == "Running" and waiting,
            start_seconds=lead.start_seconds,
            usd_per_hour=self.spec.usd_per_hour,
            request_timeout_s=self.spec.request_timeout_seconds,
        )


class Named(Protocol):
    """A record that has a file of its own."""

    @property
    def name(self) -> str: ...

    def model_dump_json(self, *, indent: int | None = None) -> str: ...


R = TypeVar("R", bound=Named)


class Records(Generic[R]):
    """A folder with one JSON file per record. A record is whole or absent, whenever the writer is killed."""

    def __init__(self, folder: Path, kind: type[R]) -> None:
        self.folder = folder
        self._kind = TypeAdapter(kind)

    def load_all(self) -> tuple[dict[str, R], list[str]]:
        """Records by name, and a sentence for each file that cannot be read; such a file is put aside, not removed."""
        records: dict[str, R] = {}
        complaints: list[str] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                record = self._kind.validate_json(path.read_bytes())
                if record.name != path.stem:
                    raise ValueError(f"it describes {record.name}")
            except (ValidationError, ValueError) as error:
                aside = path.with_suffix(".json.unreadable")
                path.replace(aside)
                first = str(error).splitlines()[0]
                complaints.append(f"The record {path} is not readable ({first}); it was renamed to {aside.name}.")
                continue
            records[record.name] = record
        return records, complaints

    def save(self, record: R) -> None:
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


class RecordStore(Records[EndpointRecord]):
    """The folder with the endpoints' records."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, EndpointRecord)
