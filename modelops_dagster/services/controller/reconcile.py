"""The reconcile loop: for each endpoint, look, decide, act, and write down what happened.

One task per endpoint, so a slow stop holds nobody else up. Records change on the event loop's thread only; what blocks
runs in a thread pool. A wish may come while an action is under way: `generation` tells, and the next step sees it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from modelops_dagster.clients.endpoints import (
    Demand,
    EndpointBackend,
    EndpointRecord,
    LiveStore,
    Prepared,
    RecordStore,
    Replica,
)
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.errors import DiskFull, EngineMissing, ModelOpsError
from modelops_dagster.domain.lifecycle import (
    WITH_REPLICA,
    Action,
    Event,
    Facts,
    Observation,
    RestartPolicy,
    Step,
    decide,
    failure_event,
)
from modelops_dagster.services.controller import outcomes
from modelops_dagster.services.controller.idleness import Idleness
from modelops_dagster.services.controller.wishes import Ledger, Wishes

log = logging.getLogger("modelops.controller")
T = TypeVar("T")
Diagnose = Callable[[str, int | None, bool], tuple[FailureReason, str]]  # (log tail, exit code, timed out)

_DIAGNOSED_LINES = 400
_SOONEST_LOOK_S = 0.05
_UNREACHABLE_AFTER = 3  # asks in a row without an answer
_SETTLE_S = 0.5  # ten times what a worker of the gateway takes to follow


class Controller:
    """Owns every endpoint of one home. `wishes` takes what is asked for; `open` begins to make it true.

    Args:
        store: what is shared with the gateway (see `clients.endpoints.live`) lies beside its folder.
        diagnose: names the reason of a failure from the engine's last lines, with a sentence about it.
        tick_s: seconds between two looks at an endpoint that nothing happens to.
        ask_every_s: seconds between two questions to an engine that is Running.
    """

    def __init__(
        self,
        store: RecordStore,
        backend: EndpointBackend,
        diagnose: Diagnose,
        policy: RestartPolicy | None = None,
        *,
        tick_s: float = 1.0,
        ask_every_s: float = 5.0,
    ) -> None:
        self.ledger = Ledger(store, LiveStore(store.folder.parent))
        self.wishes = Wishes(self.ledger, self._wake)
        self.backend = backend
        self._idleness = Idleness(Demand(store.folder.parent))
        self._diagnose = diagnose
        self._policy = policy or RestartPolicy()
        self._tick_s = tick_s
        self._ask_every_s = ask_every_s
        self._drivers: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._asked_at: dict[str, float] = {}
        self._unanswered: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="endpoint")
        self._closing = False

    async def open(self) -> None:
        """Take over what an earlier controller left, then begin to watch."""
        for complaint in self.ledger.load():
            log.warning(complaint)
        known = []
        for record in self.ledger.all():
            if record.replica is not None:
                replica = await self._run(self.backend.adopt, record.replica)
                self.ledger.note(record.model_copy(update={"replica": replica, "resting": False}))
                log.info("%s: was %s with pid %s", record.name, record.state, _pid(replica))
                known.append(replica)
        for sentence in await self._run(self.backend.end_strangers, known):
            log.warning(sentence)
        for record in self.ledger.all():
            self._wake(record.name)

    async def close(self, *, keep_engines: bool) -> None:
        """Stop watching; unless `keep_engines`, end every engine. What is wanted stays as it is."""
        self._closing = True
        for wake in self._wakes.values():
            wake.set()
        await asyncio.gather(*self._drivers.values(), return_exceptions=True)
        if not keep_engines:
            await asyncio.gather(*(self._end_at_close(record) for record in self.ledger.all()))
        self._pool.shutdown(wait=True)

    async def _end_at_close(self, record: EndpointRecord) -> None:
        if record.replica is None:
            return
        try:
            await self._end(record.replica, record.name)
        except ModelOpsError as error:
            log.error("%s: %s", record.name, error.sentence)
            return
        note = "Stopped with the controller; it starts again with the controller."
        current = self.ledger.get(record.name)
        self._happened(current, Event.STOPPED, message=note if current.desired == "Running" else "")

    def _wake(self, name: str) -> None:
        """Make the endpoint's driver look now; there is one driver per endpoint."""
        if name not in self._drivers:
            self._wakes[name] = asyncio.Event()
            self._drivers[name] = asyncio.create_task(self._drive(name), name=f"endpoint {name}")
        self._wakes[name].set()

    async def _drive(self, name: str) -> None:
        while name in self.ledger and not self._closing:
            self._wakes[name].clear()
            try:
                go_on = await self._step(name)
            except ModelOpsError as error:
                self._trouble(name, error.sentence)
                go_on = False
            except Exception as error:  # a bug in here must not leave an endpoint without its driver
                log.exception("%s: the step failed", name)
                self._trouble(name, f"The controller met an unexpected {type(error).__name__}; its log says more.")
                go_on = False
            if not go_on and name in self.ledger and not self._closing:
                await self._pause(name)
        if not self._closing:
            self._drivers.pop(name, None)
            self._wakes.pop(name, None)

    async def _pause(self, name: str) -> None:
        try:
            await asyncio.wait_for(self._wakes[name].wait(), self._next_look_s(name))
        except TimeoutError:
            self.ledger.save_late(name)

    def _next_look_s(self, name: str) -> float:
        """Sooner while an engine starts, in proportion to how long it has: a start is seen within 2 % of its time."""
        record = self.ledger.find(name)
        if record is None or record.replica is None or record.state is not EndpointState.STARTUP:
            return self._tick_s
        starting_s = (datetime.now(UTC) - record.replica.launched_at).total_seconds()
        return min(self._tick_s, max(_SOONEST_LOOK_S, 0.02 * starting_s))

    def _trouble(self, name: str, sentence: str) -> None:
        record = self.ledger.find(name)
        if record is not None and record.message != sentence:
            log.error("%s: %s", name, sentence)
            self.ledger.note(record.model_copy(update={"message": sentence, "condition": "Degraded"}))

    async def _step(self, name: str) -> bool:
        """One step; True when another one should follow at once."""
        before = self.ledger.get(name)
        if before.deleting and before.replica is None:
            await self._run(self.backend.forget, name)
            self._idleness.forget(name)
            self.ledger.forget(name)
            log.info("%s: deleted", name)
            return False
        seen = await self._look(before)
        self._idleness.saw(name, seen)
        record = self._if_still_wanted(before)
        if record is None:
            return True
        step = decide(self._facts(record, seen), self._policy)
        if step.action is Action.LAUNCH:
            return await self._launch(record)
        if step.event is Event.SLEEP and not await self._rests(record):
            return False
        if step.action is Action.END:
            await self._end_for(record, step, seen)
            return True
        if step.event is not None:
            self._happened(record, step.event)
            return True
        if record.state is EndpointState.RUNNING and seen is not None:
            self._note_running(record, seen)
        return False

    async def _rests(self, record: EndpointRecord) -> bool:
        """Send nobody there any more, then look once more: True when it is still idle, so that no call is cut off."""
        self.ledger.note(record.model_copy(update={"resting": True}))
        await asyncio.sleep(_SETTLE_S)
        if record.replica is not None:
            self._idleness.saw(
                record.name, await self._run(partial(self.backend.observe, record.spec, record.replica, ask=False))
            )
        current = self._if_still_wanted(record)
        if current is not None and self._idleness.idle(current):
            return True
        latest = self.ledger.find(record.name)
        if latest is not None:
            self.ledger.note(latest.model_copy(update={"resting": False}))
        return False

    def _if_still_wanted(self, before: EndpointRecord) -> EndpointRecord | None:
        """The present record, or None when somebody wished something else since `before` was read."""
        record = self.ledger.find(before.name)
        return record if record is not None and record.generation == before.generation else None

    async def _look(self, record: EndpointRecord) -> Observation | None:
        replica = record.replica
        if replica is None or record.outdated or record.desired == "Stopped" or record.state not in WITH_REPLICA:
            return None
        now = time.monotonic()
        due = now - self._asked_at.get(record.name, -self._ask_every_s) >= self._ask_every_s
        ask = due or record.state is not EndpointState.RUNNING
        if ask:
            self._asked_at[record.name] = now
        return await self._run(partial(self.backend.observe, record.spec, replica, ask=ask))

    def _facts(self, record: EndpointRecord, seen: Observation | None) -> Facts:
        now = datetime.now(UTC)
        replica = record.replica
        return Facts(
            desired=record.desired,
            state=record.state,
            has_replica=replica is not None,
            outdated=record.outdated,
            seen=seen,
            ever_ready=record.ever_ready,
            failures=record.failures,
            since_launch_s=(now - replica.launched_at).total_seconds() if replica else 0.0,
            start_timeout_s=replica.start_timeout_s if replica else 0.0,
            retry_in_s=(record.retry_at - now).total_seconds() if record.retry_at else 0.0,
            idle=self._idleness.idle(record),
            asked_for=self._idleness.asked_for(record),
        )

    def _note_running(self, record: EndpointRecord, seen: Observation) -> None:
        """Keep the condition true, and forget old failures after a long stable time."""
        changes: dict[str, Any] = {}
        if seen.ready is not None:
            count = 0 if seen.ready else self._unanswered.get(record.name, 0) + 1
            self._unanswered[record.name] = count
            if seen.ready and (record.condition or record.message):
                changes |= {"condition": None, "message": ""}
            elif count == _UNREACHABLE_AFTER:
                changes |= {"condition": "Unreachable", "message": outcomes.describe_silence(record, seen)}
        stable_s = (datetime.now(UTC) - record.since).total_seconds()
        if record.failures and stable_s > self._policy.stable_after_s:
            changes["failures"] = 0
        if changes:
            self.ledger.note(record.model_copy(update=changes))

    async def _launch(self, record: EndpointRecord) -> bool:
        name = record.name
        prepared = await self._prepare(record)
        if prepared is None:
            return False
        current = self._if_still_wanted(record)
        if current is None or self._closing:
            await self._run(self.backend.end, prepared.replica)
            return True
        try:
            # on disk before the process is, so that a kill between the two leaves nothing that no record claims
            if not self._happened(current, Event.PREPARED, replica=prepared.replica):
                raise DiskFull(f"The record of {name} cannot be written; free space on the disk of the home directory.")
            replica = await self._run(self.backend.start, record.spec, prepared)
        except ModelOpsError as error:
            await self._end(prepared.replica, name)
            current = self._if_still_wanted(record)
            if current is not None:
                event = failure_event(current.ever_ready, current.failures, self._policy)
                self._fail(current, event, reason="bad_config", message=error.sentence)
            return False
        log.info("%s: started %s, pid %s, port %s", name, record.spec.engine, _pid(replica), replica.port)
        self.ledger.note(self.ledger.get(name).model_copy(update={"replica": replica}))
        return True

    async def _prepare(self, record: EndpointRecord) -> Prepared | None:
        """Command and port of the engine, or None when there can be none, which is then in the record."""
        taken = {other.replica.port for other in self.ledger.all() if other.replica is not None}
        try:
            return await self._run(
                partial(self.backend.prepare, record.spec, record.replica_generation, reserved_ports=taken)
            )
        except Exception as error:  # an engine's own files are read here, and anything may be in them
            if not isinstance(error, ModelOpsError):
                log.exception("%s: no command could be made", record.name)
            current = self._if_still_wanted(record)
            if current is not None:
                reason: FailureReason = "engine_missing" if isinstance(error, EngineMissing) else "bad_config"
                self._happened(current, Event.BUILD_FAILED, reason=reason, message=outcomes.one_line(error))
            return None

    async def _end(self, replica: Replica, name: str) -> None:
        """End the replica's processes, then take it out of the record, whatever was wished meanwhile."""
        await self._run(self.backend.end, replica)
        current = self.ledger.get(name)
        if current.replica is not None and current.replica.launch_id == replica.launch_id:
            self.ledger.note(current.model_copy(update={"replica": None}))

    async def _end_for(self, record: EndpointRecord, step: Step, seen: Observation | None) -> None:
        """End the engine, then write down what that means, unless somebody wished something else meanwhile."""
        replica = record.replica
        if replica is None:
            return
        failed = step.event not in (None, Event.SLEEP)
        if record.state is EndpointState.RUNNING and failed and record.desired == "Running":
            # said before what is left of it is ended, which may take a while: nobody should be sent there now
            ending = {"condition": "Unreachable", "message": "The engine ended; what it left is being ended too."}
            self.ledger.note(record.model_copy(update=ending))
        await self._end(replica, record.name)
        tail = await self._run(self.backend.tail, replica, _DIAGNOSED_LINES)
        current = self._if_still_wanted(record)
        if current is None or step.event is None:
            return
        if step.event in (Event.CRASHED, Event.GAVE_UP, Event.START_FAILED):
            reason, cause = self._diagnose(tail, seen.exit_code if seen else None, step.timed_out)
            if step.timed_out and seen is not None and seen.wrong_name:
                reason, cause = "bad_config", f"In all this time {seen.detail}."
            if record.spec.is_external:
                reason = "timeout" if step.timed_out else "bad_config"
            message = outcomes.describe(record, seen, step.timed_out, reason, cause)
            self._fail(current, step.event, reason=reason, message=message, log_tail=outcomes.last_lines(tail))
        elif step.event is Event.LOST:
            taken_by = seen.port_taken_by if seen else None
            message = outcomes.describe_loss(replica, taken_by)
            self._happened(current, Event.LOST, failures=current.failures + bool(taken_by), message=message)
        else:
            self._happened(current, step.event)

    def _fail(self, record: EndpointRecord, event: Event, **changes: Any) -> None:
        if event is Event.CRASHED:
            failures = record.failures + 1
            delay_s = self._policy.delay_s(failures)
            again = f"It starts again in {delay_s:g} s ({failures} of {self._policy.max_restarts})."
            changes |= {
                "failures": failures,
                "restarts": record.restarts + 1,
                "retry_at": datetime.now(UTC) + timedelta(seconds=delay_s),
                "condition": "Degraded",
                "message": f"{changes['message']} {again}",
            }
        self._happened(record, event, **changes)

    def _happened(self, record: EndpointRecord, event: Event, **changes: Any) -> bool:
        """Write down what an event did to the record; True when it is on disk."""
        after = record.model_copy(update={**outcomes.after(record, event), **changes})
        if after.state is not record.state:
            log.info("%s: %s (%s) %s", record.name, after.state, event, after.message)
        self._unanswered.pop(record.name, None)
        return self.ledger.note(after)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args))


def _pid(replica: Replica) -> int | None:
    return replica.identity.pid if replica.identity else None
