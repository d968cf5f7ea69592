"""The controller's research jobs: queued, run on accelerators nobody needs more, preempted, resumed.

Records change on the event loop's thread only; what blocks runs in a thread. A record is on disk before the process is,
and says which devices a job has as long as a process of it may be alive.
"""

import asyncio
import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from modelops_dagster.clients.research import JobProcesses, JobRecord
from modelops_dagster.domain.alerts import Alert, job_preempted
from modelops_dagster.domain.errors import DiskFull, ModelOpsError, NotFound
from modelops_dagster.domain.research import OVER, Attempt, JobRequest, JobState, ResearchJob
from modelops_dagster.domain.scarcity import Claim, Holding
from modelops_dagster.services.controller.accelerators import Accelerators

log = logging.getLogger("modelops.controller")
_HELD = frozenset({JobState.RUNNING, JobState.STOPPING})
_AGAIN = {
    "preempted": "Preempted by {by}; it resumes when there is room.",
    "stopped": "Stopped with the controller; it resumes with the controller.",
    "lost": "It went with a restart of the machine or of the controller; it starts again.",
}


class ResearchDesk:
    """Takes jobs and sees them through. One task per job that is not over."""

    def __init__(
        self,
        jobs: JobProcesses,
        accelerators: Accelerators,
        alert: Callable[[Alert], None],
        *,
        run: Callable[..., Awaitable[Any]],
        tick_s: float,
    ) -> None:
        """
        Args:
            alert: tells the owner of a job; called in a thread.
            run: calls a function in a thread.
        """
        self.processes = jobs
        self._accelerators = accelerators
        self._alert = alert
        self._run = run
        self._tick_s = tick_s
        self._records: dict[str, JobRecord] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._closing = False
        accelerators.users.append(self)

    # the verbs

    def submit(self, request: JobRequest) -> ResearchJob:
        """Queue a job.

        Raises:
            InvalidSpec: this machine has not that many accelerators, or no such directory.
            DiskFull: it cannot be written down, so it was not promised.
        """
        self._accelerators.require(request.gpus)
        now = datetime.now(UTC)
        job_id = f"job-{now:%Y%m%d}-{secrets.token_hex(3)}"
        job = ResearchJob(job_id=job_id, request=request, state=JobState.QUEUED, since=now, created_at=now)
        self.processes.check(job)
        record = JobRecord(job=job)
        self.processes.records.save(record)
        self._records[job_id] = record
        log.info("%s: queued for %s", job_id, request.owner)
        self._watch(job_id)
        return record.status()

    def list(self) -> tuple[ResearchJob, ...]:
        """Every job, the newest first."""
        found = [record.status() for record in self._records.values()]
        return tuple(sorted(found, key=lambda job: (job.created_at, job.job_id), reverse=True))

    def get(self, job_id: str) -> ResearchJob:
        """One job.

        Raises:
            NotFound: there is none of that id.
        """
        return self._get(job_id).status()

    def cancel(self, job_id: str) -> ResearchJob:
        """End a job, or take it out of the queue. One that is over stays as it is."""
        record = self._get(job_id)
        if record.job.state not in OVER and not record.cancelling:
            record = record.model_copy(update={"cancelling": True})
            self.processes.records.save(record)
            self._records[job_id] = record
            self._watch(job_id)
        return record.status()

    # the life of the controller

    async def open(self) -> None:
        """Take over what an earlier controller left."""
        self._records, complaints = await self._run(self.processes.records.load_all)
        for complaint in complaints:
            log.warning(complaint)
        for record in list(self._records.values()):
            if record.job.state in _HELD and record.identity is None:
                identity = await self._run(self.processes.find, record.job)
                self._note(record.model_copy(update={"identity": identity}))
            if record.job.state not in OVER:
                self._watch(record.name)

    async def close(self, *, keep: bool) -> None:
        """Stop watching; unless `keep`, end every job's processes. They are queued again."""
        self._closing = True
        for wake in self._wakes.values():
            wake.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if not keep:
            held = [record for record in self._records.values() if record.job.state in _HELD]
            await asyncio.gather(*(self._end(record, "stopped") for record in held), return_exceptions=True)

    # who has accelerators, and who waits

    def claims(self) -> Iterator[Claim]:
        """Jobs that wait for accelerators."""
        for record in self._records.values():
            if record.job.state is JobState.QUEUED and record.job.request.gpus and not record.cancelling:
                yield _claim(record.job)

    def holdings(self) -> Iterator[Holding]:
        """Jobs that have some."""
        for record in self._records.values():
            if record.job.devices:
                yield Holding(
                    owner=record.name,
                    kind="job",
                    priority=record.job.request.priority,
                    devices=record.job.devices,
                    since=record.job.attempts[-1].started_at,
                    leaving=record.job.state is JobState.STOPPING or record.cancelling,
                )

    # one job

    def _get(self, job_id: str) -> JobRecord:
        record = self._records.get(job_id)
        if record is None:
            raise NotFound(f"There is no job {job_id!r}; `modelops research list` shows those there are.")
        return record

    def _watch(self, job_id: str) -> None:
        if job_id not in self._tasks or self._tasks[job_id].done():
            self._wakes[job_id] = asyncio.Event()
            self._tasks[job_id] = asyncio.create_task(self._drive(job_id), name=job_id)
        self._wakes[job_id].set()

    async def _drive(self, job_id: str) -> None:
        while not self._closing and self._records[job_id].job.state not in OVER:
            self._wakes[job_id].clear()
            try:
                go_on = await self._step(self._records[job_id])
            except ModelOpsError as error:
                log.error("%s: %s", job_id, error.sentence)
                self._move(self._records[job_id], message=error.sentence)
                go_on = False
            except Exception:  # a bug in here must not leave a job without its task
                log.exception("%s: the step failed", job_id)
                go_on = False
            if not go_on:
                try:
                    await asyncio.wait_for(self._wakes[job_id].wait(), self._tick_s)
                except TimeoutError:
                    continue

    async def _step(self, record: JobRecord) -> bool:
        """One step; True when another one should follow at once."""
        if record.job.state is JobState.QUEUED:
            return self._drop(record) if record.cancelling else await self._start(record)
        seen = await self._run(self.processes.look, record)
        record = self._records[record.name]
        by = self._accelerators.evicted_for(record.name)
        if seen.lost:
            await self._end(record, "lost")
        elif not seen.alive:
            await self._finish(record, seen.exit_code)
        elif record.cancelling:
            await self._end(record, "cancelled")
        elif by is not None:
            await self._end(record, "preempted", by)
        elif record.job.state is JobState.STOPPING:
            await self._end(record, "stopped")  # an earlier controller was killed while it ended the job
        else:
            return False
        return True

    def _drop(self, record: JobRecord) -> bool:
        self._move(record, JobState.CANCELLED, message="Cancelled before it ran.")
        return True

    async def _start(self, record: JobRecord) -> bool:
        devices: tuple[str, ...] = ()
        try:
            if record.job.request.gpus:
                answer = self._accelerators.claim(_claim(record.job))
                if not answer.devices:
                    self._move(record, message=answer.message)
                    return False
                devices = answer.devices
            attempt = Attempt(started_at=datetime.now(UTC), devices=devices)
            job = record.job.model_copy(update={"attempts": (*record.job.attempts, attempt)})
            record = self._move(record.model_copy(update={"job": job}), JobState.RUNNING, message="", exit_code=None)
        finally:
            self._accelerators.settle(record.name)
        try:
            identity = await self._run(self.processes.start, record.job)
        except ModelOpsError as error:
            await self._end(self._records[record.name], "ended")
            self._move(self._records[record.name], JobState.FAILED, message=error.sentence)
            return True
        log.info("%s: started, pid %s", record.name, identity.pid)
        self._note(self._records[record.name].model_copy(update={"identity": identity}))
        return True

    async def _finish(self, record: JobRecord, code: int | None) -> None:
        record = await self._end(record, "ended")
        told = "Done." if code == 0 else f"It ended with {f'exit code {code}' if code is not None else 'no exit code'}"
        told += "" if code == 0 else f"; `modelops research logs {record.name}` says more."
        self._move(record, JobState.SUCCEEDED if code == 0 else JobState.FAILED, message=told, exit_code=code)

    async def _end(
        self,
        record: JobRecord,
        outcome: Literal["ended", "preempted", "stopped", "cancelled", "lost"],
        by: str = "",
    ) -> JobRecord:
        """End what is left of the job's processes, then write down what became of the attempt."""
        record = self._move(record, JobState.STOPPING)
        await self._run(self.processes.end, record)
        saved = await self._run(self.processes.checkpoint_at, record.job)
        record = self._records[record.name]
        attempt = {"ended_at": datetime.now(UTC), "outcome": outcome, "checkpoint_at": saved}
        ended = record.model_copy(update={"job": record.job.with_attempt(**attempt), "identity": None})
        self._accelerators.left(record.name)
        if outcome == "ended":
            return self._note(ended)
        if outcome == "cancelled":
            return self._move(ended, JobState.CANCELLED, message="Cancelled while it ran.")
        record = self._move(ended, JobState.QUEUED, message=_AGAIN[outcome].format(by=by))
        if outcome == "preempted":
            await self._tell(record.job, by)
        return record

    async def _tell(self, job: ResearchJob, by: str) -> None:
        """Alert the owner. An alert that cannot be written stops no job."""
        command = shlex.join(job.request.command)
        lost = job.attempts[-1].lost_gpu_hours
        now = datetime.now(UTC)
        one = job_preempted(job.job_id, job.request.owner, command, by=by, lost_gpu_hours=lost, at=now)
        try:
            await self._run(partial(self._alert, one))
        except (ModelOpsError, OSError) as error:
            log.error("%s: its owner could not be told: %s", job.job_id, error)

    def _move(self, record: JobRecord, state: JobState | None = None, **changes: Any) -> JobRecord:
        """The record in another state, written down when anything changed."""
        job = record.job
        if state is not None and state is not job.state:
            changes |= {"state": state, "since": datetime.now(UTC)}
        moved = record.model_copy(update={"job": job.model_copy(update=changes)})
        if moved == self._records[record.name]:
            return moved
        if moved.job.state is not self._records[record.name].job.state:
            log.info("%s: %s %s", record.name, moved.job.state, moved.job.message)
        return self._note(moved)

    def _note(self, record: JobRecord) -> JobRecord:
        """Write down a fact: in memory first, for it is true even when the disk is full."""
        self._records[record.name] = record
        try:
            self.processes.records.save(record)
        except DiskFull as error:
            log.error("%s: %s", record.name, error.sentence)
        return record


def _claim(job: ResearchJob) -> Claim:
    return Claim(owner=job.job_id, priority=job.request.priority, count=job.request.gpus, since=job.created_at)
