"""What every desk of research jobs does: it takes them, knows them by their records, and tells their owners."""

import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from modelops_dagster.clients.endpoints.records import Records
from modelops_dagster.clients.research import JobRecord
from modelops_dagster.domain.alerts import Alert, job_preempted
from modelops_dagster.domain.errors import DiskFull, ModelOpsError, NotFound
from modelops_dagster.domain.research import OVER, JobRequest, JobState, ResearchJob

log = logging.getLogger("modelops.controller")


class JobDesk:
    """Jobs by their records, which change on the event loop's thread only; what blocks runs in a thread.

    Args:
        alert: tells the owner of a job; called in a thread.
        run: calls a function in a thread.
    """

    def __init__(
        self, records: Records[JobRecord], alert: Callable[[Alert], None], run: Callable[..., Awaitable[Any]]
    ) -> None:
        self._store = records
        self._alert = alert
        self._run = run
        self._records: dict[str, JobRecord] = {}

    # the verbs

    def submit(self, request: JobRequest) -> ResearchJob:
        """Queue a job.

        Raises:
            InvalidSpec: it cannot be run here.
            DiskFull: it cannot be written down, so it was not promised.
        """
        now = datetime.now(UTC)
        job_id = f"job-{now:%Y%m%d}-{secrets.token_hex(3)}"
        job = ResearchJob(job_id=job_id, request=request, state=JobState.QUEUED, since=now, created_at=now)
        self._check(job)
        record = JobRecord(job=job)
        self._store.save(record)
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
            self._store.save(record)
            self._records[job_id] = record
            self._watch(job_id)
        return record.status()

    def read_log(self, job: ResearchJob, lines: int) -> str:
        """The last lines of every attempt's output. Called in a thread."""
        raise NotImplementedError

    # the life of the controller

    async def open(self) -> None:
        """Take over what an earlier controller left."""
        raise NotImplementedError

    async def close(self, *, keep: bool) -> None:
        """Stop watching; unless `keep`, end what ends with this program."""
        raise NotImplementedError

    async def _load(self) -> None:
        self._records, complaints = await self._run(self._store.load_all)
        for complaint in complaints:
            log.warning(complaint)

    # what a desk adds

    def _check(self, job: ResearchJob) -> None:
        """See that the job could be run. Raises: InvalidSpec."""
        raise NotImplementedError

    def _watch(self, job_id: str) -> None:
        """See the job through, beginning now."""
        raise NotImplementedError

    # records

    def _get(self, job_id: str) -> JobRecord:
        record = self._records.get(job_id)
        if record is None:
            raise NotFound(f"There is no job {job_id!r}; `modelops research list` shows those there are.")
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
            self._store.save(record)
        except DiskFull as error:
            log.error("%s: %s", record.name, error.sentence)
        return record
