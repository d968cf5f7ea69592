"""Research jobs as Jobs of a cluster, watched. Their logs are kept: a pod that is taken away takes its own along."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelops_dagster.clients.endpoints.records import Records
from modelops_dagster.clients.kubernetes.api import KubernetesApi
from modelops_dagster.clients.kubernetes.cache import KindCache
from modelops_dagster.clients.research import JobRecord
from modelops_dagster.domain.errors import ClusterUnavailable, UserError
from modelops_dagster.domain.kubernetes import MANAGER, Site
from modelops_dagster.domain.kubernetes.jobs import RefusedPod, is_over
from modelops_dagster.domain.kubernetes.names import MANAGED_BY_LABEL, PART_LABEL
from modelops_dagster.domain.kubernetes.research import (
    CHECKPOINT_NAME,
    CONTAINER,
    REQUEST_ANNOTATION,
    RESEARCH_LABEL,
    requested_job,
)
from modelops_dagster.domain.research import Attempt, JobRequest, JobState, ResearchJob

log = logging.getLogger("modelops.kubernetes")
Manifest = dict[str, Any]
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER},{PART_LABEL}={CONTAINER}"
_SYNC_S = 15.0
_LOG_BYTES = 1 << 22
_ASK_EVERY_S = 2.0


@dataclass(frozen=True)
class JobFacts:
    """A job on the cluster. `live` is None when there is no such Job, `refused` when it waits for no refused pod."""

    live: Manifest | None
    pods: list[Manifest]
    refused: RefusedPod | None = None


class ClusterJobs:
    """The research jobs of one namespace.

    Args:
        folder: of records and logs: `<job>.json`, and `<job>.<attempt>.log` for each attempt.
        work: where this program sees the folders that jobs save in; on the volume that their pods mount.
    """

    def __init__(self, api: KubernetesApi, site: Site, folder: Path, work: Path) -> None:
        self.records = Records(folder, JobRecord)
        self._api, self._site, self._folder, self._work = api, site, folder, work
        self._changed: Callable[[], None] = lambda: None
        self._refused: dict[str, RefusedPod] = {}
        self._asked_at = -_ASK_EVERY_S
        self._jobs = KindCache(api, "Job", SELECTOR, self._notice)
        self._pods = KindCache(api, "Pod", SELECTOR, self._notice, group_of=_job_of)

    def follow(self, changed: Callable[[], None]) -> None:
        """Begin to watch; `changed` is called from any thread when something happened to any job."""
        self._changed = changed
        for cache in (self._jobs, self._pods):
            cache.start()

    def close(self) -> None:
        for cache in (self._jobs, self._pods):
            cache.stop()

    def check(self, job: ResearchJob) -> None:
        """See that the job could be made.

        Raises:
            InvalidSpec: it names no image.
        """
        requested_job(job.job_id, job.request, self._site)

    def start(self, job: ResearchJob) -> None:
        """Make the job. Safe to call again.

        Raises:
            InvalidSpec, UserError, ClusterUnavailable: the API server did not take it.
        """
        (self._work / job.job_id).mkdir(parents=True, exist_ok=True)
        self._jobs.put(self._api.apply(requested_job(job.job_id, job.request, self._site), MANAGER))

    def look(self, job_id: str) -> JobFacts:
        """What the watches told last. A job that they do not know is asked for before it counts as gone.

        Raises:
            ClusterUnavailable: the watches are broken, so nothing is known of now.
        """
        for cache in (self._jobs, self._pods):
            if cache.trouble is not None:
                raise ClusterUnavailable(cache.trouble.sentence)
            if not cache.wait_synced(_SYNC_S):
                raise ClusterUnavailable("The cluster has not been listed yet; it is asked again.")
        live = self._jobs.get(job_id) or self._api.read("Job", job_id)
        pods = self._pods.group(job_id)
        waits = live is not None and all(map(is_over, pods)) and not live["spec"].get("suspend")
        return JobFacts(live, pods, self._refusals().get(job_id) if waits else None)

    def _refusals(self) -> dict[str, RefusedPod]:
        """Pods that the cluster did not make, by job: a Job tells that in events alone.

        They are asked for, of all jobs at once, and only while one has no pod.
        """
        if time.monotonic() - self._asked_at >= _ASK_EVERY_S:
            self._asked_at = time.monotonic()
            try:
                said = sorted(self._api.events("Job", "FailedCreate"), key=lambda event: event[2])
            except UserError as error:  # a Role of before: it says nothing about the job
                log.warning("why jobs have no pods is not known: %s", error.sentence)
                said = []
            self._refused = {name: RefusedPod(message, at) for name, message, at in said}
        return self._refused

    def found(self) -> list[ResearchJob]:
        """What there is on the cluster that was asked for here, for a controller that lost its records."""
        if not self._jobs.wait_synced(_SYNC_S):
            return []
        jobs = []
        for live in self._jobs.all():
            metadata = live["metadata"]
            try:
                request = JobRequest.model_validate_json(metadata["annotations"][REQUEST_ANNOTATION])
                since = datetime.fromisoformat(metadata["creationTimestamp"])
            except (KeyError, ValueError):
                log.warning("job %s was not asked for here, and is left alone", metadata["name"])
                continue
            jobs.append(
                ResearchJob(
                    job_id=metadata["name"], request=request, state=JobState.QUEUED, since=since, created_at=since
                )
            )
        return jobs

    def delete(self, job_id: str) -> None:
        """Delete the job and its pods. The folder that it saved in stays: only its owner knows what is in it."""
        self._api.delete("Job", job_id)

    def keep_log(self, job_id: str, number: int, attempt: Attempt) -> None:
        """Write down what an attempt wrote so far, while its pod is there."""
        text = self._api.log(attempt.pod, CONTAINER, {"limitBytes": str(_LOG_BYTES)})
        path = self._folder / f"{job_id}.{number}.log"
        if text and (not path.is_file() or len(text) > path.stat().st_size):
            path.write_text(text)

    def read_log(self, job: ResearchJob, lines: int) -> str:
        """The last lines of every attempt's output; empty when there is none."""
        for number, attempt in enumerate(job.attempts):
            if attempt.ended_at is None:
                self.keep_log(job.job_id, number, attempt)
        kept = [self._folder / f"{job.job_id}.{number}.log" for number in range(len(job.attempts))]
        written = [line for path in kept if path.is_file() for line in path.read_text().splitlines()]
        return "\n".join(written[-lines:] if lines else [])

    def checkpoint_at(self, job: ResearchJob) -> datetime | None:
        """When the job last said that it saved its work, UTC; None: never, or its folder is not seen from here."""
        try:
            return datetime.fromtimestamp((self._work / job.job_id / CHECKPOINT_NAME).stat().st_mtime, UTC)
        except OSError:
            return None

    def _notice(self, _: Manifest) -> None:
        self._changed()


def _job_of(pod: Manifest) -> str:
    return str((pod["metadata"].get("labels") or {}).get(RESEARCH_LABEL, ""))
