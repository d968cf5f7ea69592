"""Research jobs as files and processes of this machine."""

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints.process import visible_devices
from modelops_dagster.clients.endpoints.records import Records
from modelops_dagster.clients.engine_install import clean_environment
from modelops_dagster.clients.processes import ProcessIdentity
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.research import CHECKPOINT_VARIABLE, ResearchJob
from modelops_dagster.domain.values import Value

RUNNER = Path(__file__).resolve().parent.parent / "workers" / "run_job.py"
_REST_GRACE_S = 2.0


class JobRecord(Value):
    """Everything the controller knows about one job. Only the controller writes it."""

    job: ResearchJob
    identity: ProcessIdentity | None = None
    applied: bool = False  # its Job was made on the cluster
    cancelling: bool = False

    @property
    def name(self) -> str:
        return self.job.job_id

    def status(self) -> ResearchJob:
        """What the controller tells others."""
        return self.job.model_copy(update={"pid": self.identity.pid if self.identity else None})


class JobSeen(Value):
    """What one look at a job's processes showed."""

    alive: bool
    lost: bool = False
    exit_code: int | None = None


class JobProcesses:
    """Starts, watches and ends jobs. A job has a session of its own, and one log for all its attempts.

    `folder` gets `<job>.json` (its record), `<job>.log`, `<job>.exit` (the exit code) and `<job>.checkpoint`, which the
    job touches when it has saved its work (`MODELOPS_CHECKPOINT_FILE`).
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        """
        Args:
            environ: what a job's environment is drawn from, by default this program's; no secret is passed on.
        """
        self.records = Records(folder, JobRecord)
        self._folder = folder.resolve()
        self._environ = os.environ if environ is None else environ

    def log(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.log"

    def check(self, job: ResearchJob) -> None:
        """See that the job could start.

        Raises:
            InvalidSpec: there is no such directory, or it is to run in a container.
        """
        if job.request.image is not None:
            raise InvalidSpec(
                "Jobs are processes of this machine and run in no container: leave the image out.", field="image"
            )
        if not Path(job.request.directory).is_dir():
            raise InvalidSpec(f"{job.request.directory} is not a directory here; name another one.", field="directory")

    def start(self, job: ResearchJob) -> ProcessIdentity:
        """Start the job's command on the devices of its last attempt.

        Raises:
            EndpointFailed, DiskFull: the program that runs it, or its log, cannot be opened.
        """
        result = self._folder / f"{job.job_id}.exit"
        result.unlink(missing_ok=True)
        argv = (sys.executable, "-I", "-S", str(RUNNER), str(result), *job.request.command)
        environ = clean_environment(self._environ, Path(sys.prefix))
        environ |= {CHECKPOINT_VARIABLE: str(self._checkpoint(job)), **job.request.environment}
        environ |= visible_devices(job.devices)
        return processes.spawn(argv, environ, self.log(job.job_id), Path(job.request.directory))

    def find(self, job: ResearchJob) -> ProcessIdentity | None:
        """The process of a job that was started in the instant the controller was killed."""
        return processes.find_by_log(self.log(job.job_id))

    def look(self, record: JobRecord) -> JobSeen:
        """Whether the job runs, and how it ended."""
        if record.identity is None:
            return JobSeen(alive=False, lost=True)
        if processes.is_alive(record.identity):
            return JobSeen(alive=True)
        try:
            return JobSeen(alive=False, exit_code=int((self._folder / f"{record.name}.exit").read_text()))
        except (OSError, ValueError):
            lost = processes.rebooted_since(record.identity)
            return JobSeen(alive=False, lost=lost, exit_code=processes.exit_code(record.identity))

    def end(self, record: JobRecord) -> None:
        """End every process of the job: SIGTERM, the job's grace period, SIGKILL.

        Raises:
            EndpointFailed: a process survived.
        """
        whole = record.identity is not None and processes.is_alive(record.identity)
        grace_s = record.job.request.grace_s if whole else _REST_GRACE_S
        processes.stop_group(record.identity, grace_s, self.log(record.name))

    def checkpoint_at(self, job: ResearchJob) -> datetime | None:
        """When the job last said that it saved its work, UTC; None: never."""
        try:
            return datetime.fromtimestamp(self._checkpoint(job).stat().st_mtime, UTC)
        except OSError:
            return None

    def read_log(self, job_id: str, lines: int) -> str:
        """The last lines of every attempt's output; empty when there is none."""
        return processes.last_lines(self.log(job_id), lines)[0]

    def _checkpoint(self, job: ResearchJob) -> Path:
        return self._folder / f"{job.job_id}.checkpoint"
