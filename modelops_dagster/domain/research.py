"""Research jobs: commands that use accelerators while nothing more important needs them."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from modelops_dagster.domain.endpoint_spec.container import Image
from modelops_dagster.domain.endpoint_spec.quantities import Cpu, Memory
from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.values import Value

JOB_ID = re.compile(r"job-[0-9]{8}-[0-9a-f]{6}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
CHECKPOINT_VARIABLE = "MODELOPS_CHECKPOINT_FILE"


def _preemptible(priority: Priority) -> Priority:
    if priority is Priority.PRODUCTION:
        raise ValueError("a job is research or preview: production is never preempted, and is for endpoints")
    return priority


Preemptible = Annotated[Priority, AfterValidator(_preemptible)]
"""A priority that a job may have."""


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "Queued"
    RUNNING = "Running"
    STOPPING = "Stopping"  # told to end: to make room, or because it was cancelled
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


OVER = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class JobRequest(Value):
    """What somebody wants to run."""

    command: tuple[str, ...] = Field(min_length=1, description="program and arguments, passed as they are, no shell")
    owner: str = Field(min_length=1, max_length=64, description="who is told when it is preempted")
    gpus: int = Field(default=1, ge=0, le=1024, description="accelerators it needs; it sees no other")
    priority: Preemptible = Field(
        default=Priority.RESEARCH, description="research or preview; production is for endpoints"
    )
    directory: str = Field(
        default="", description="absolute path of the working directory; in a container, empty is the job's own folder"
    )
    environment: dict[str, str] = Field(default_factory=dict, description="variables besides the harmless ones")
    grace_s: float = Field(
        default=60.0, ge=0, le=3600, description="seconds between SIGTERM and SIGKILL, to write a checkpoint"
    )
    image: Image | None = Field(default=None, description="container it runs in; needed on a cluster, and only there")
    cpu: Cpu | None = Field(default=None, description="vCPU, on a cluster")
    memory: Memory | None = Field(default=None, description="Gi, on a cluster")
    nodegroups: tuple[str, ...] = Field(default=(), description="nodes it may be on, on a cluster")
    max_hours: float = Field(
        default=24, gt=0, le=24 * 60, allow_inf_nan=False, description="then it is ended, on a cluster"
    )

    @model_validator(mode="after")
    def _somewhere(self) -> "JobRequest":
        if not self.directory and self.image is None:
            raise ValueError("directory: a command runs in one; name it")
        return self

    @field_validator("command")
    @classmethod
    def _command(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0] or any("\0" in part for part in value):
            raise ValueError("a command is a program and its arguments, without NUL characters")
        return value

    @field_validator("directory")
    @classmethod
    def _directory(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError(f"{value!r} is not an absolute path of a directory")
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not VARIABLE.fullmatch(name) or "\0" in text:
                raise ValueError(f"{name!r} cannot be a variable: use letters, digits and '_'")
            if SECRET.search(name):
                raise ValueError(
                    f"{name!r} looks like a secret, which a job's record must not hold: read it from a file"
                )
        return value


class Attempt(Value):
    """One time the job ran."""

    started_at: datetime
    ended_at: datetime | None = None
    outcome: Literal["ended", "preempted", "stopped", "cancelled", "lost"] | None = Field(
        default=None, description="stopped: with the controller; lost: the machine restarted"
    )
    checkpoint_at: datetime | None = Field(default=None, description="when the job last said that it saved its work")
    devices: tuple[str, ...] = ()
    pod: str = Field(default="", description="that it ran in, on a cluster")
    by: str = Field(default="", description="for whom or what a cluster took the pod away, as half a sentence")

    @property
    def gpu_hours(self) -> float:
        """Accelerators x hours; 0 while it runs."""
        return self._hours(self.started_at)

    @property
    def lost_gpu_hours(self) -> float:
        """Of an attempt that was cut short, what came after the last checkpoint; all of it when there was none."""
        if self.outcome not in ("preempted", "stopped", "lost"):
            return 0.0
        return self._hours(max(self.started_at, self.checkpoint_at or self.started_at))

    def _hours(self, begun: datetime) -> float:
        if self.ended_at is None:
            return 0.0
        return max(0.0, (self.ended_at - begun).total_seconds()) / 3600 * len(self.devices)


class ResearchJob(Value):
    """A job, as the controller reports it."""

    job_id: str
    request: JobRequest
    state: JobState
    since: datetime = Field(description="when the state was entered, UTC")
    created_at: datetime
    message: str = Field(default="", description="what it waits for, or how it ended; one sentence")
    pid: int | None = None
    exit_code: int | None = Field(default=None, description="of the last attempt; negative: ended by that signal")
    attempts: tuple[Attempt, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Accelerators it has now."""
        held = self.state in (JobState.RUNNING, JobState.STOPPING)
        return self.attempts[-1].devices if held and self.attempts else ()

    @property
    def preemptions(self) -> int:
        return sum(attempt.outcome == "preempted" for attempt in self.attempts)

    @property
    def gpu_hours(self) -> float:
        """Accelerators x hours of every attempt that ended."""
        return sum(attempt.gpu_hours for attempt in self.attempts)

    @property
    def lost_gpu_hours(self) -> float:
        """What had to be computed again, or will have to be."""
        return sum(attempt.lost_gpu_hours for attempt in self.attempts)

    def with_attempt(self, **changes: object) -> "ResearchJob":
        """The job with changes to its last attempt."""
        last = self.attempts[-1].model_copy(update=changes)
        return self.model_copy(update={"attempts": (*self.attempts[:-1], last)})
