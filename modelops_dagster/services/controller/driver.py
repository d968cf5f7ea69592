"""One replica of an endpoint: look, decide, act, and write down what happened, again and again.

A wish may come while an action is under way: `generation` tells, and the next step sees it. Records change on the event
loop's thread only; what blocks runs in a thread pool.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from modelops_dagster.clients.endpoints import EndpointRecord, Prepared, Replica, ReplicaRecord
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.errors import DiskFull, EngineMissing, InvalidSpec, ModelOpsError
from modelops_dagster.domain.lifecycle import (
    WITH_REPLICA,
    Action,
    Event,
    Facts,
    Observation,
    Step,
    decide,
    failure_event,
)
from modelops_dagster.services.controller import outcomes
from modelops_dagster.services.controller.accelerators import endpoint_claim, owner_of
from modelops_dagster.services.controller.workshop import Workshop

log = logging.getLogger("modelops.controller")

_DIAGNOSED_LINES = 400
_SOONEST_LOOK_S = 0.05
_UNREACHABLE_AFTER = 3  # asks in a row without an answer
_DRAIN_S = 60.0
_SETTLE_S = 0.5  # ten times what a worker of the gateway takes to follow


class Driver:
    """Drives one replica until it is gone. There is one driver per replica, so a slow stop holds nobody else up."""

    def __init__(self, shop: Workshop, name: str, index: int) -> None:
        self.closing = False
        self._shop = shop
        self._ledger = shop.ledger
        self._name = name
        self._index = index
        self._label = owner_of(name, index)
        self._wake = asyncio.Event()
        self._asked_at = -shop.ask_every_s
        self._unanswered = 0

    def wake(self) -> None:
        """Look now, and not at the next tick."""
        self._wake.set()

    async def drive(self) -> None:
        """Until the replica is not wanted and not there any more, or the controller closes."""
        while self._find() is not None and not self.closing:
            self._wake.clear()
            try:
                go_on = await self._step()
            except ModelOpsError as error:
                self._trouble(error.sentence)
                go_on = False
            except Exception as error:  # a bug in here must not leave a replica without its driver
                log.exception("%s: the step failed", self._label)
                self._trouble(f"The controller met an unexpected {type(error).__name__}; its log says more.")
                go_on = False
            if not go_on and self._find() is not None and not self.closing:
                await self._pause()

    async def end_at_close(self) -> None:
        """End the engine because the controller ends. What is wanted stays as it is."""
        record = self._find()
        replica = record.replicas[self._index].replica if record else None
        if record is None or replica is None:
            return
        try:
            await self._end(replica)
        except ModelOpsError as error:
            log.error("%s: %s", self._label, error.sentence)
            return
        note = "Stopped with the controller; it starts again with the controller."
        current = self._ledger.get(self._name)
        self._happened(current, Event.STOPPED, message=note if current.desired == "Running" else "")

    def _find(self) -> EndpointRecord | None:
        """The endpoint's record, while it has a place for this replica."""
        record = self._ledger.find(self._name)
        return record if record is not None and self._index < len(record.replicas) else None

    def _if_still_wanted(self, before: EndpointRecord) -> EndpointRecord | None:
        """The present record, or None when somebody wished something else since `before` was read."""
        record = self._find()
        return record if record is not None and record.generation == before.generation else None

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), self._next_look_s())
        except TimeoutError:
            self._ledger.save_late(self._name)

    def _next_look_s(self) -> float:
        """Sooner while an engine starts, in proportion to how long it has: a start is seen within 2 % of its time."""
        record = self._find()
        mine = record.replicas[self._index] if record else None
        if mine is None or mine.replica is None or mine.state is not EndpointState.STARTUP:
            return self._shop.tick_s
        starting_s = (datetime.now(UTC) - mine.replica.launched_at).total_seconds()
        return min(self._shop.tick_s, max(_SOONEST_LOOK_S, 0.02 * starting_s))

    def _trouble(self, sentence: str) -> None:
        record = self._find()
        if record is not None and record.replicas[self._index].message != sentence:
            log.error("%s: %s", self._label, sentence)
            self._note(record, message=sentence, condition="Degraded")

    async def _step(self) -> bool:
        """One step; True when another one should follow at once."""
        before = self._ledger.get(self._name)
        if before.deleting and not before.started and self._index == 0:
            await self._shop.run(self._shop.backend.forget, self._name)
            self._shop.idleness.forget(self._name)
            self._ledger.forget(self._name)
            log.info("%s: deleted", self._name)
            return False
        fitted = before.fitted(datetime.now(UTC))
        if fitted.others != before.others:
            self._ledger.note(fitted)
            self._shop.wake(self._name)
            return True
        seen = await self._look(before)
        self._shop.idleness.saw(self._name, seen)
        record = self._if_still_wanted(before)
        if record is None:
            return True
        step = decide(self._facts(record, seen), self._shop.policy)
        if step.action is Action.LAUNCH:
            return await self._launch(record)
        slept = seen is not None and seen.asleep
        if step.event is Event.SLEEP and not slept and not await self._rests(record):
            return False
        if step.action is Action.END:
            await self._end_for(record, step, seen)
            return True
        if step.event is not None:
            self._happened(record, step.event)
            return True
        if seen is not None and record.replicas[self._index].state is EndpointState.RUNNING:
            self._note_running(record, seen)
        elif seen is not None and (told := outcomes.told(record.replicas[self._index], seen)):
            self._note(record, **told)
        return False

    async def _look(self, record: EndpointRecord) -> Observation | None:
        mine = record.replicas[self._index]
        wanted = record.desired_of(self._index) == "Running" and not record.is_outdated(self._index)
        if mine.replica is None or not wanted or mine.state not in WITH_REPLICA:
            return None
        now = time.monotonic()
        ask = now - self._asked_at >= self._shop.ask_every_s or mine.state is not EndpointState.RUNNING
        if ask:
            self._asked_at = now
        seen: Observation = await self._shop.run(
            partial(self._shop.backend.observe, record.spec, mine.replica, ask=ask)
        )
        return seen

    def _facts(self, record: EndpointRecord, seen: Observation | None) -> Facts:
        now = datetime.now(UTC)
        mine = record.replicas[self._index]
        replica = mine.replica
        return Facts(
            desired=record.desired_of(self._index),
            state=mine.state,
            has_replica=replica is not None,
            outdated=record.is_outdated(self._index),
            seen=seen,
            ever_ready=mine.ever_ready,
            failures=mine.failures,
            since_launch_s=(now - max(replica.launched_at, mine.since)).total_seconds() if replica else 0.0,
            start_timeout_s=replica.start_timeout_s if replica else 0.0,
            in_state_s=(now - mine.since).total_seconds(),
            placing_timeout_s=replica.placing_timeout_s if replica else 0.0,
            retries=mine.retry_at is not None,
            retry_in_s=(mine.retry_at - now).total_seconds() if mine.retry_at else 0.0,
            evicted=self._shop.accelerators.evicted_for(self._label) is not None,
            idle=self._shop.idleness.idle(record, mine),
            asked_for=self._shop.idleness.asked_for(record.name, mine),
        )

    async def _rests(self, record: EndpointRecord) -> bool:
        """Send nobody there any more, then look once more: True when it is still idle, so that no call is cut off."""
        replica = record.replicas[self._index].replica
        self._note(record, resting=True)
        await asyncio.sleep(_SETTLE_S)
        if replica is not None:
            seen = await self._shop.run(partial(self._shop.backend.observe, record.spec, replica, ask=False))
            self._shop.idleness.saw(self._name, seen)
        current = self._if_still_wanted(record)
        if current is not None and self._shop.idleness.idle(current, current.replicas[self._index]):
            return True
        self._shop.idleness.pressed.discard(self._name)
        latest = self._find()
        if latest is not None:
            self._note(latest, resting=False)
        return False

    def _note_running(self, record: EndpointRecord, seen: Observation) -> None:
        """Keep the condition true, and forget old failures after a long stable time."""
        mine = record.replicas[self._index]
        changes: dict[str, Any] = {"addresses": seen.urls} if seen.urls != mine.addresses else {}
        if seen.ready is not None:
            self._unanswered = 0 if seen.ready else self._unanswered + 1
            if seen.ready and (mine.condition, mine.message) != (seen.condition, seen.said):
                changes |= {"condition": seen.condition, "message": seen.said}
            elif not seen.ready and seen.said:
                changes |= outcomes.told(mine, seen)
            elif self._unanswered == _UNREACHABLE_AFTER:
                changes |= {"condition": "Unreachable", "message": outcomes.describe_silence(record.spec, seen)}
        stable_s = (datetime.now(UTC) - mine.since).total_seconds()
        if mine.failures and stable_s > self._shop.policy.stable_after_s:
            changes["failures"] = 0
        if changes:
            self._note(record, **changes)

    async def _launch(self, record: EndpointRecord) -> bool:
        try:
            devices = self._accelerators_for(record)
            return devices is not None and await self._launch_on(record, devices)
        finally:
            self._shop.accelerators.settle(self._label)

    def _accelerators_for(self, record: EndpointRecord) -> tuple[str, ...] | None:
        """The devices to start on; None while it waits for them, which is then in the record."""
        if not record.spec.gpus or record.on_cluster:
            return ()
        try:
            self._shop.accelerators.require(record.spec.gpus)
        except InvalidSpec as error:
            self._happened(record, Event.BUILD_FAILED, reason="bad_config", message=error.sentence)
            return None
        answer = self._shop.accelerators.claim(endpoint_claim(record, self._index))
        if not answer.devices:
            if record.replicas[self._index].waits_for != answer.message:
                log.info("%s: %s", self._label, answer.message)
                self._note(record, waits_for=answer.message)
            return None
        return answer.devices

    async def _launch_on(self, record: EndpointRecord, devices: tuple[str, ...]) -> bool:
        prepared = await self._prepare(record, devices)
        if prepared is None:
            return False
        current = self._if_still_wanted(record)
        if current is None or self.closing:
            await self._shop.run(self._shop.backend.end, prepared.replica)
            return True
        try:
            # on disk before the process is, so that a kill between the two leaves nothing that no record claims
            if not self._happened(current, Event.PREPARED, replica=prepared.replica):
                raise DiskFull(
                    f"The record of {self._name} cannot be written; free space on the disk of the home directory."
                )
            replica = await self._shop.run(self._shop.backend.start, record.spec, prepared)
        except ModelOpsError as error:
            await self._end(prepared.replica)
            current = self._if_still_wanted(record)
            if current is not None:
                mine = current.replicas[self._index]
                event = failure_event(mine.ever_ready, mine.failures, self._shop.policy)
                self._fail(current, event, reason="bad_config", message=error.sentence)
            return False
        pid = replica.identity.pid if replica.identity else None
        log.info("%s: started %s, pid %s, port %s", self._label, record.spec.engine, pid, replica.port)
        self._note(self._ledger.get(self._name), replica=replica)
        return True

    async def _prepare(self, record: EndpointRecord, devices: tuple[str, ...]) -> Prepared | None:
        """Command and port of the engine, or None when there can be none, which is then in the record."""
        taken = {replica.port for other in self._ledger.all() for replica in other.started}
        try:
            prepared: Prepared = await self._shop.run(
                partial(self._shop.backend.prepare, record.spec, record.replica_generation, taken, devices)
            )
        except Exception as error:  # an engine's own files are read here, and anything may be in them
            if not isinstance(error, ModelOpsError):
                log.exception("%s: no command could be made", self._label)
            current = self._if_still_wanted(record)
            if current is not None:
                reason: FailureReason = "engine_missing" if isinstance(error, EngineMissing) else "bad_config"
                self._happened(current, Event.BUILD_FAILED, reason=reason, message=outcomes.one_line(error))
            return None
        return prepared

    async def _end(self, replica: Replica) -> None:
        """End the replica's processes, then take it out of the record, whatever was wished meanwhile."""
        await self._shop.run(self._shop.backend.end, replica)
        current = self._ledger.get(self._name)
        mine = current.replicas[self._index].replica
        self._shop.accelerators.left(self._label)
        if mine is not None and mine.launch_id == replica.launch_id:
            self._note(current, replica=None)

    async def _drain(self, record: EndpointRecord, replica: Replica) -> None:
        """Let a replica too many finish its calls; the gateway sends it no new ones."""
        deadline = time.monotonic() + _DRAIN_S
        seen = Observation(alive=True, in_use=True)
        while seen.alive and seen.in_use and time.monotonic() < deadline and not self.closing:
            await asyncio.sleep(_SETTLE_S)
            seen = await self._shop.run(partial(self._shop.backend.observe, record.spec, replica, ask=False))

    async def _end_for(self, record: EndpointRecord, step: Step, seen: Observation | None) -> None:
        """End the engine, then write down what that means, unless somebody wished something else meanwhile."""
        mine = record.replicas[self._index]
        replica = mine.replica
        if replica is None:
            return
        failed = step.event not in (None, Event.SLEEP)
        if mine.state is EndpointState.RUNNING and failed and record.desired_of(self._index) == "Running":
            # said before what is left of it is ended, which may take a while: nobody should be sent there now
            evicted = step.event is Event.PREEMPTED
            told = "It makes room." if evicted else "The engine ended; what it left is being ended too."
            self._note(record, condition="Preempted" if evicted else "Unreachable", message=told, resting=evicted)
        if record.desired == "Running" and record.desired_of(self._index) == "Stopped":
            await self._drain(record, replica)
        await self._end(replica)
        tail = await self._shop.run(self._shop.backend.tail, replica, _DIAGNOSED_LINES)
        current = self._if_still_wanted(record)
        if current is None or step.event is None:
            return
        if step.event in (Event.CRASHED, Event.GAVE_UP, Event.START_FAILED):
            reason, cause = self._shop.diagnose(tail, seen.exit_code if seen else None, step.timed_out)
            if step.timed_out and seen is not None and seen.wrong_name:
                reason, cause = "bad_config", f"In all this time {seen.detail}."
            if record.spec.is_external:
                reason = "timeout" if step.timed_out else "bad_config"
            message = outcomes.describe(record.spec, mine, seen, step.timed_out, reason, cause)
            if seen is not None and seen.reason not in (None, "crash"):
                reason, message = seen.reason, outcomes.told_by_cluster(mine, seen, step.timed_out)
            self._fail(current, step.event, reason=reason, message=message, log_tail=outcomes.last_lines(tail))
        elif step.event is Event.LOST:
            taken_by = seen.port_taken_by if seen else None
            message = outcomes.describe_loss(replica, taken_by, seen.said if seen else "")
            self._happened(current, Event.LOST, failures=mine.failures + bool(taken_by), message=message)
        else:
            self._happened(current, step.event)

    def _fail(self, record: EndpointRecord, event: Event, **changes: Any) -> None:
        if event is Event.CRASHED:
            mine = record.replicas[self._index]
            policy = self._shop.policy
            failures = mine.failures + 1
            delay_s = policy.delay_s(failures)
            again = f"It starts again in {delay_s:g} s ({failures} of {policy.max_restarts})."
            changes |= {
                "failures": failures,
                "restarts": mine.restarts + 1,
                "retry_at": datetime.now(UTC) + timedelta(seconds=delay_s),
                "condition": "Degraded",
                "message": f"{changes['message']} {again}",
            }
        elif record.spec.is_external:
            delay_s = self._shop.policy.max_delay_s
            changes |= {
                "retry_at": datetime.now(UTC) + timedelta(seconds=delay_s),
                "message": f"{changes['message']} It is asked again in {delay_s:g} s.",
            }
        self._happened(record, event, **changes)

    def _happened(self, record: EndpointRecord, event: Event, **changes: Any) -> bool:
        """Write down what an event did to the replica; True when it is on disk."""
        mine: ReplicaRecord = record.replicas[self._index]
        changes = {**outcomes.after(mine, event), **changes}
        if changes["state"] is not mine.state:
            log.info("%s: %s (%s) %s", self._label, changes["state"], event, changes.get("message", ""))
        self._unanswered = 0
        return self._note(record, **changes)

    def _note(self, record: EndpointRecord, **changes: Any) -> bool:
        return self._ledger.note(record.with_replica(self._index, **changes))
