"""Verbs of research jobs: commands that use accelerators while nothing more important needs them."""

from modelops_dagster.client.connection import Connection
from modelops_dagster.domain.errors import NotFound
from modelops_dagster.domain.research import JOB_ID, JobRequest, ResearchJob


class ResearchVerbs(Connection):
    """Jobs belong to the controller: they go on without whoever submitted them."""

    def submit_job(self, request: JobRequest) -> ResearchJob:
        """Queue a command; returns at once.

        Raises:
            InvalidSpec: the machine has not that many accelerators, or no such directory.
        """
        return ResearchJob.model_validate(self._call("POST", "/v1/research", json=request.model_dump(mode="json")))

    def list_jobs(self) -> tuple[ResearchJob, ...]:
        """Every job, newest first."""
        return tuple(ResearchJob.model_validate(item) for item in self._call("GET", "/v1/research")["jobs"])

    def get_job(self, job_id: str) -> ResearchJob:
        """How a job stands.

        Raises:
            NotFound: there is no such job.
        """
        return ResearchJob.model_validate(self._call("GET", _path(job_id)))

    def cancel_job(self, job_id: str) -> ResearchJob:
        """End a job, or take it out of the queue; returns at once.

        Raises:
            NotFound: there is no such job.
        """
        return ResearchJob.model_validate(self._call("POST", _path(job_id, "/cancel")))

    def job_logs(self, job_id: str, tail: int = 200) -> str:
        """The last `tail` lines it wrote, over all its attempts.

        Raises:
            NotFound: there is no such job.
        """
        return str(self._call("GET", _path(job_id, "/logs"), params={"tail": tail})["text"])


def _path(job_id: str, verb: str = "") -> str:
    """The job's address. An id that no job can have is answered here, before it becomes another address."""
    if not JOB_ID.fullmatch(job_id):
        raise NotFound(f"There is no job {job_id!r}; `modelops research list` shows those there are.")
    return f"/v1/research/{job_id}{verb}"
