"""Research jobs on a cluster, which starts them, takes their pods away and makes them again: that is written down."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from modelops_dagster.clients.kubernetes.research import ClusterJobs, JobFacts
from modelops_dagster.clients.research import JobRecord
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.errors import ClusterUnavailable, ModelOpsError
from modelops_dagster.domain.kubernetes.jobs import attempts_now, is_over, job_now
from modelops_dagster.domain.research import OVER, Attempt, JobState, ResearchJob
from modelops_dagster.services.controller.job_desk import JobDesk

log = logging.getLogger("modelops.controller")


class ClusterDesk(JobDesk):
    """Hands jobs to the cluster and follows what becomes of them. The cluster goes on without this program."""

    def __init__(
        self, jobs: ClusterJobs, alert: Callable[[Alert], None], *, run: Callable[..., Awaitable[Any]], tick_s: float
    ) -> None:
        super().__init__(jobs.records, alert, run)
        self._jobs = jobs
        self._tick_s = tick_s
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def read_log(self, job: ResearchJob, lines: int) -> str:
        """The last lines of every attempt's output."""
        return self._jobs.read_log(job, lines)

    async def open(self) -> None:
        """Take over what an earlier controller left, and begin to watch."""
        await self._load()
        loop = asyncio.get_running_loop()
        self._jobs.follow(partial(_in_loop, loop, self._wake.set))
        for job in await self._run(self._jobs.found):
            if job.job_id not in self._records:  # the home was lost, or is a new one
                self._records[job.job_id] = JobRecord(job=job, applied=True)
                log.info("%s: found on the cluster", job.job_id)
        self._task = asyncio.create_task(self._follow(), name="research")

    async def close(self, *, keep: bool) -> None:
        """Stop watching. Jobs go on, whatever `keep` says: they are the cluster's."""
        self._jobs.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _check(self, job: ResearchJob) -> None:
        self._jobs.check(job)

    def _watch(self, job_id: str) -> None:
        self._wake.set()

    async def _follow(self) -> None:
        while True:
            self._wake.clear()
            for record in [r for r in self._records.values() if r.job.state not in OVER]:
                try:
                    await self._step(record)
                except ClusterUnavailable as error:  # it says nothing about the job
                    log.warning("%s: %s", record.name, error.sentence)
                except ModelOpsError as error:
                    self._move(self._records[record.name], JobState.FAILED, message=error.sentence)
                except Exception:  # a bug in here must not leave the other jobs alone
                    log.exception("%s: the look at it failed", record.name)
            try:
                await asyncio.wait_for(self._wake.wait(), self._tick_s)
            except TimeoutError:
                continue

    async def _step(self, record: JobRecord) -> None:
        """One look at one job."""
        if not record.applied:
            if (await self._run(self._jobs.look, record.name)).live is not None and record.job.attempts:
                return  # the Job of the attempt before is not gone yet
            record = self._records[record.name]
            if record.cancelling:
                ran = "while it ran" if record.job.attempts else "before it ran"
                self._move(record, JobState.CANCELLED, message=f"Cancelled {ran}.")
                return
            await self._run(self._jobs.start, record.job)
            record = self._note(self._records[record.name].model_copy(update={"applied": True}))
        facts = await self._run(self._jobs.look, record.name)
        record = self._records[record.name]
        if facts.live is None or record.cancelling:
            await self._leave(record, facts)
            return
        conditions = (facts.live.get("status") or {}).get("conditions") or []
        over = any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
        record = await self._attempts(record, facts, "ended" if over else None)
        if over and not all(is_over(pod) for pod in facts.pods):
            return  # the watch of Jobs was faster than that of pods, which says how it ended
        now = job_now(record.job, facts.live, facts.pods, facts.refused)
        last = record.job.attempts[-1] if record.job.attempts else None
        if now.state is JobState.SUCCEEDED and last is not None and last.outcome == "preempted":
            # it saved its work and exited with 0 as it was evicted, which the cluster takes for the end of the job
            await self._run(self._jobs.delete, record.name)
            self._note(self._records[record.name].model_copy(update={"applied": False}))
            self._move(
                self._records[record.name],
                JobState.QUEUED,
                message=f"Preempted by {last.by}; it resumes when there is room.",
            )
            return
        self._move(record, now.state, message=now.message, exit_code=now.exit_code)

    async def _leave(self, record: JobRecord, facts: JobFacts) -> None:
        """Take the job from the cluster, where it still is; over once nothing of it is left."""
        record = await self._attempts(record, facts, "cancelled")
        if facts.live is not None and "deletionTimestamp" not in facts.live["metadata"]:
            await self._run(self._jobs.delete, record.name)
        if facts.live is not None or facts.pods:
            self._move(self._records[record.name], JobState.STOPPING, message="It is being ended.")
            return
        ran = "while it ran" if record.job.attempts else "before it ran"
        told = f"Cancelled {ran}." if record.cancelling else "Somebody deleted its Job on the cluster."
        self._move(record, JobState.CANCELLED, message=told)

    async def _attempts(
        self, record: JobRecord, facts: JobFacts, ending: Literal["ended", "cancelled"] | None
    ) -> JobRecord:
        """Write down what the pods tell about the attempts; tell the owner of each that was cut short."""
        known, job = record.job.attempts, record.job
        suspended = bool(((facts.live or {}).get("spec") or {}).get("suspend"))
        found = attempts_now(known, facts.pods, job.request.gpus, datetime.now(UTC), suspended=suspended, ending=ending)
        done = [await self._finished(job, number, a, known) for number, a in enumerate(found)]
        attempts = tuple(done)
        if attempts == known:
            return record
        record = self._records[record.name]
        record = self._note(record.model_copy(update={"job": record.job.model_copy(update={"attempts": attempts})}))
        before = sum(a.outcome == "preempted" for a in known)
        for attempt in [a for a in attempts if a.outcome == "preempted"][before:]:
            await self._tell(record.job.model_copy(update={"attempts": (attempt,)}), attempt.by)
        return self._records[record.name]

    async def _finished(self, job: ResearchJob, number: int, attempt: Attempt, known: tuple[Attempt, ...]) -> Attempt:
        """The attempt; its log is kept when it ends, or is about to, and with its end when it saved its work last."""
        before = next((a for a in known if a.pod == attempt.pod), None)
        leaves = bool(attempt.by) and (before is None or not before.by)
        ends = attempt.ended_at is not None and (before is None or before.ended_at is None)
        if leaves or ends:
            await self._run(self._jobs.keep_log, job.job_id, number, attempt)
        if not ends:
            return attempt
        saved = await self._run(self._jobs.checkpoint_at, job)
        return attempt.model_copy(update={"checkpoint_at": saved})


def _in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Act on the loop's thread, asked from any other."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(act)
