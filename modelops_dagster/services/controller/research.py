"""The controller's research jobs: queued, run on accelerators nobody needs more, preempted, resumed.

Records change on the event loop's thread only; what blocks runs in a thread. A record is on disk before the process is,
and says which devices a job has as long as a process of it may be alive.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from modelops_dagster.clients.research import JobProcesses, JobRecord
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.research import OVER, Attempt, JobState, ResearchJob
from modelops_dagster.domain.scarcity import Claim, Holding
from modelops_dagster.services.controller.accelerators import Accelerators
from modelops_dagster.services.controller.job_desk import JobDesk

log = logging.getLogger("modelops.controller")
_HELD = frozenset({JobState.RUNNING, JobState.STOPPING})
_AGAIN = {
    "preempted": "Preempted by {by}; it resumes when there is room.",
    "stopped": "Stopped with the controller; it resumes with the controller.",
    "lost": "It went with a restart of the machine or of the controller; it starts again.",
}


class ResearchDesk(JobDesk):
    """Sees jobs through on the accelerators of this machine. One task per job that is not over."""

    def __init__(
        self,
        jobs: JobProcesses,
        accelerators: Accelerators,
        alert: Callable[[Alert], None],
        *,
        run: Callable[..., Awaitable[Any]],
        tick_s: float,
    ) -> None:
        super().__init__(jobs.records, alert, run)
        self.processes = jobs
        self._accelerators = accelerators
        self._tick_s = tick_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._closing = False
        accelerators.users.append(self)

    def read_log(self, job: ResearchJob, lines: int) -> str:
        """The last lines of every attempt's output."""
        return self.processes.read_log(job.job_id, lines)

    def _check(self, job: ResearchJob) -> None:
        self._accelerators.require(job.request.gpus)
        self.processes.check(job)

    # the life of the controller

    async def open(self) -> None:
        """Take over what an earlier controller left."""
        await self._load()
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


def _claim(job: ResearchJob) -> Claim:
    return Claim(owner=job.job_id, priority=job.request.priority, count=job.request.gpus, since=job.created_at)
