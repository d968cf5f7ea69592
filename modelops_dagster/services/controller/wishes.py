"""What people and programs ask for, and the records it is written to before anything is done about it."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.endpoints import EndpointRecord, LiveStore, RecordStore
from modelops_dagster.domain.endpoint_spec.changes import changes_while_running, refused_change
from modelops_dagster.domain.endpoint_spec.this_machine import refusal_here
from modelops_dagster.domain.endpoints import FAILED_STATES, EndpointSpec, EndpointState
from modelops_dagster.domain.errors import Conflict, DiskFull, InvalidSpec, ModelOpsError, NoSuchEndpoint
from modelops_dagster.domain.lifecycle import Event
from modelops_dagster.services.controller import outcomes
from modelops_dagster.services.controller.publishing import Publisher

log = logging.getLogger("modelops.controller")
Refusal = Callable[[EndpointSpec], ModelOpsError | None]


# How a replica that does nothing by itself is set going when its endpoint is asked for.
_ROUSED_BY = {EndpointState.SLEEPING: Event.WAKE} | dict.fromkeys(FAILED_STATES, Event.START)


class Ledger:
    """The records in memory and on disk. Used from one thread."""

    def __init__(self, store: RecordStore, live: LiveStore) -> None:
        self._store = store
        self.publisher = Publisher(live)
        self._records: dict[str, EndpointRecord] = {}
        self._unsaved: set[str] = set()

    def load(self) -> list[str]:
        """Read every record; returns a sentence for each that cannot be read."""
        self._records, complaints = self._store.load_all()
        self.publisher.begin(record.live() for record in self._records.values())
        return complaints

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def all(self) -> list[EndpointRecord]:
        return sorted(self._records.values(), key=lambda record: record.name)

    def find(self, name: str) -> EndpointRecord | None:
        return self._records.get(name)

    def get(self, name: str) -> EndpointRecord:
        """The endpoint's record.

        Raises:
            NoSuchEndpoint: there is none of that name.
        """
        record = self._records.get(name)
        if record is None:
            raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
        return record

    def promise(self, record: EndpointRecord) -> None:
        """Write down a wish: on disk first, for what was not written was not promised.

        Raises:
            DiskFull: there is no room for it; nothing changed.
        """
        self._store.save(record)
        self._records[record.name] = record
        self.publisher.tell(record.live())

    def note(self, record: EndpointRecord) -> bool:
        """Write down a fact: in memory first, for it is true even when the disk is full. True when it is on disk."""
        self._records[record.name] = record
        self.publisher.tell(record.live())
        try:
            self._store.save(record)
        except DiskFull as error:
            if record.name not in self._unsaved:
                log.error("%s: %s", record.name, error.sentence)
            self._unsaved.add(record.name)
            return False
        self._unsaved.discard(record.name)
        return True

    def save_late(self, name: str) -> None:
        """Try again to save a fact that found the disk full."""
        if name in self._unsaved and name in self._records:
            self.note(self._records[name])

    def forget(self, name: str) -> None:
        self._store.delete(name)
        self._records.pop(name, None)
        self._unsaved.discard(name)
        self.publisher.forget(name)


class Wishes:
    """The verbs of the controller. Each writes what is wanted and returns at once; the reconciler makes it true.

    Args:
        changed: told the name of every endpoint whose record changed.
        refusal: why a cluster cannot do what a spec asks for; None: endpoints are on this machine.
    """

    def __init__(self, ledger: Ledger, changed: Callable[[str], None], refusal: Refusal | None = None) -> None:
        self._ledger = ledger
        self._changed = changed
        self._refusal = refusal

    def apply(self, spec: EndpointSpec) -> EndpointRecord:
        """Make `spec` true. An endpoint that already runs it (or is on the way) is left alone, a failed one is retried.

        A sleeping one wakes: who applies a spec wants to use it. A spec that scales it differently replaces no engine.

        Raises:
            InvalidSpec: this machine cannot do what the spec asks for.
            Conflict: the endpoint is being deleted.
            DiskFull: the wish cannot be written down.
        """
        refusal = refusal_here(spec) if self._refusal is None else self._refusal(spec)
        if refusal is not None:
            raise refusal
        record = self._ledger.find(spec.name)
        if record is None:
            now = datetime.now(UTC)
            elsewhere = self._refusal is not None and not spec.is_external
            record = EndpointRecord(
                spec=spec, desired="Running", state=EndpointState.BUILDING, since=now, on_cluster=elsewhere
            )
            return self._promise(record.fitted(now))
        under_way = record.desired == "Running" and not record.status().failed
        if not under_way or not changes_while_running(record.spec, spec):
            return self._run(record, spec)
        idle = {n: event for n, replica in enumerate(record.replicas) if (event := _ROUSED_BY.get(replica.state))}
        if record.spec == spec and not idle:
            return record
        for index, event in idle.items():
            record = record.with_replica(index, **outcomes.after(record.replicas[index], event))
        return self._wish(record, spec=spec)

    def put_to_rest(self, spec: EndpointSpec) -> EndpointRecord:
        """Want an endpoint of this spec to be there and Stopped; nothing is started for it.

        Raises:
            InvalidSpec: this machine cannot do what the spec asks for.
            Conflict: the endpoint is being deleted.
        """
        refusal = refusal_here(spec)
        if refusal is not None:
            raise refusal
        record = self._ledger.find(spec.name)
        if record is None:
            stopped = EndpointState.STOPPED
            return self._promise(EndpointRecord(spec=spec, desired="Stopped", state=stopped, since=datetime.now(UTC)))
        if record.deleting:
            raise Conflict(f"Endpoint {record.name} is being deleted; ask again in a moment.")
        same = (record.spec, record.desired) == (spec, "Stopped")
        return record if same else self._wish(record, spec=spec, desired="Stopped", retry_at=None)

    def start(self, name: str) -> EndpointRecord:
        """Want it Running, and awake. Does nothing when it is, or is on the way."""
        return self.apply(self._ledger.get(name).spec)

    def restart(self, name: str) -> EndpointRecord:
        """End its engine, if there is one, and start another."""
        record = self._ledger.get(name)
        return self._run(record, record.spec)

    def stop(self, name: str) -> EndpointRecord:
        """Want it Stopped. The state follows when no process of it is left."""
        record = self._ledger.get(name)
        if record.desired == "Stopped":
            return record
        return self._wish(record, desired="Stopped", retry_at=None)

    def delete(self, name: str, confirm: str) -> EndpointRecord:
        """End it and forget it, logs included.

        Raises:
            InvalidSpec: `confirm` is not the endpoint's name.
        """
        record = self._ledger.get(name)
        if confirm != name:
            raise InvalidSpec(
                f"Deleting {name} must be confirmed with its name, not with {confirm!r}.", field="confirm"
            )
        return self._wish(record, desired="Stopped", deleting=True, retry_at=None)

    def update(self, spec: EndpointSpec, *, restart: bool = False) -> EndpointRecord:
        """Give an endpoint another spec: at once what may change while it runs, the rest when it is Stopped.

        A stopped or failed endpoint stays so until it is started.

        Args:
            restart: end its engine and start another where that is needed.

        Raises:
            InvalidSpec: this machine cannot do it, or it would be another endpoint.
            Conflict: it must be Stopped first, or is being deleted.
        """
        record = self._ledger.get(spec.name)
        refusal = refusal_here(spec)
        if refusal is not None:
            raise refusal
        at_rest = not record.started and (record.desired == "Stopped" or record.status().failed)
        why = refused_change(record.spec, spec, stopped=at_rest)
        if why is not None and not (restart and isinstance(why, Conflict)):
            raise why
        if why is not None:
            return self._run(record, spec)
        return record if record.spec == spec else self._wish(record, spec=spec)

    def _run(self, record: EndpointRecord, spec: EndpointSpec) -> EndpointRecord:
        if record.deleting:
            raise Conflict(f"Endpoint {record.name} is being deleted; ask again in a moment.")
        for index, replica in enumerate(record.replicas):
            changes = outcomes.after(replica, Event.START)
            changes["condition"] = "Updating" if replica.replica is not None else None
            record = record.with_replica(index, **changes)
        return self._wish(
            record, spec=spec, desired="Running", scaled_to=None, replica_generation=record.generation + 1
        )

    def _wish(self, record: EndpointRecord, **changes: Any) -> EndpointRecord:
        changed = record.model_copy(update={"generation": record.generation + 1, **changes})
        return self._promise(changed.fitted(datetime.now(UTC)))

    def _promise(self, record: EndpointRecord) -> EndpointRecord:
        self._ledger.promise(record)
        log.info("%s: wanted %s, now %s", record.name, record.desired, record.state)
        self._changed(record.name)
        return record
