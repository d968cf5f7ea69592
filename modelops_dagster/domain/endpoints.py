"""An endpoint: one base URL serving one checkpoint through one engine, and the states it goes through."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.engines import FailureReason, RungResult
from modelops_dagster.domain.values import Value

ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# no loader or interpreter variables: an endpoint's spec chooses how an engine runs, not what runs
ENGINE_VARIABLE = re.compile(
    r"(VLLM|NCCL|CUDA|TORCH|TORCHINDUCTOR|OMP|HF_HUB)_(?!.*(KEY|TOKEN|SECRET|PASSWORD))[A-Z0-9_]+"
)
ENDPOINT_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9]))*")


class EndpointState(StrEnum):
    """The nine states of an endpoint (names as CSGHub has them)."""

    BUILDING = "Building"
    DEPLOYING = "Deploying"
    STARTUP = "Startup"
    RUNNING = "Running"
    STOPPED = "Stopped"
    SLEEPING = "Sleeping"
    BUILDING_FAILED = "BuildingFailed"
    DEPLOY_FAILED = "DeployFailed"
    RUNTIME_ERROR = "RuntimeError"


FAILED_STATES = frozenset({EndpointState.BUILDING_FAILED, EndpointState.DEPLOY_FAILED, EndpointState.RUNTIME_ERROR})
Condition = Literal["Degraded", "Preempted", "Updating", "Unreachable"]


AutoscaleMetric = Literal["cpu", "gpu", "ram", "gram", "latency", "throughput", "concurrency", "queue_length"]


class Priority(StrEnum):
    """Who yields when accelerators are scarce: research before preview; production never does."""

    PRODUCTION = "production"
    PREVIEW = "preview"
    RESEARCH = "research"


class AutoscaleTarget(Value):
    """One figure to keep, per replica."""

    metric: AutoscaleMetric
    target: float = Field(
        gt=0, allow_inf_nan=False, description="percent (cpu, gpu, ram, gram), ms (latency), requests/s or requests"
    )
    percentile: Literal[50, 75, 90, 95] | None = Field(default=None, description="of latency")


class AutoscaleConfig(Value):
    """When replicas come and go."""

    targets: tuple[AutoscaleTarget, ...] = Field(min_length=1)
    cooldown_period: int = Field(default=300, ge=1, description="seconds without a request before it sleeps")


class EndpointSpec(Value):
    """Desired state. The controller makes it true; nobody else starts an engine."""

    name: str = Field(min_length=2, max_length=64, description="starts with a letter, ends with a letter or digit")
    checkpoint: str = Field(description="absolute path of the checkpoint directory")
    checkpoint_digest: str = Field(description="digest of its manifest; part of the spec's identity")
    engine: str = Field(description="name of an installed engine")
    variant: str | None = Field(default=None, description="named variant of the engine")
    engine_args: tuple[str, ...] = Field(default=(), description="extra arguments, passed as they are, no shell")
    engine_environment: dict[str, str] = Field(
        default_factory=dict, description="extra variables of the engine's process: VLLM_*, NCCL_* and the like"
    )
    served_model_name: str = Field(min_length=1, max_length=200, description="the name the engine answers to")
    max_context: int | None = Field(default=None, gt=0, description="context length to serve, in tokens")
    start_timeout_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="overrides the engine's own"
    )

    min_replicas: int = Field(default=1, ge=0, le=100)
    max_replicas: int = Field(default=1, ge=1, le=100)
    scale_to_zero: bool = Field(default=False, description="sleep when nobody asks, wake on the first request")
    autoscale_config: AutoscaleConfig | None = None
    gpus: int = Field(default=0, ge=0, le=1024, description="accelerators of one replica")
    priority: Priority = Priority.PREVIEW

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ENDPOINT_NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} is not an endpoint name: start with a letter, end with a letter or digit, "
                "and use only letters, digits and single '-', '_' or '.' between them"
            )
        return value

    @field_validator("checkpoint")
    @classmethod
    def _checkpoint(cls, value: str) -> str:
        if not value.startswith("/"):
            raise ValueError(f"{value!r} is not an absolute path of a checkpoint directory")
        return value

    @field_validator("engine", "variant")
    @classmethod
    def _engine(cls, value: str | None) -> str | None:
        if value is not None and not ENGINE_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not the name of an engine or variant: use letters, digits, '.', '_', '-'")
        return value

    @field_validator("engine_environment")
    @classmethod
    def _environment(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not ENGINE_VARIABLE.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a variable of an engine: only VLLM_*, NCCL_*, CUDA_*, TORCH*, OMP_* and HF_HUB_* "
                    "names are passed, and none that holds a secret"
                )
            if "\0" in text:
                raise ValueError("a NUL character cannot be passed to a program")
        return value

    @field_validator("checkpoint", "served_model_name", "engine_args")
    @classmethod
    def _no_nul(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if any("\0" in text for text in ((value,) if isinstance(value, str) else value)):
            raise ValueError("a NUL character cannot be passed to a program")
        return value


class EndpointStatus(Value):
    """Observed state, as the controller reports it."""

    spec: EndpointSpec
    desired: Literal["Running", "Stopped"]
    state: EndpointState
    condition: Condition | None = None
    url: str | None = Field(default=None, description="base URL that ends in /v1, while it answers")
    reason: FailureReason | None = None
    message: str = Field(default="", description="one sentence a person can act on; empty when all is well")
    log_tail: str = Field(default="", description="the engine's last lines, when it failed")
    pid: int | None = None
    restarts: int = 0
    since: datetime = Field(description="when the present state was entered, UTC")
    start_seconds: float | None = Field(default=None, description="measured time from start to ready")
    engine_version: str | None = Field(default=None, description="version of the engine that was started last")

    @property
    def failed(self) -> bool:
        return self.state in FAILED_STATES


class LogChunk(Value):
    """A piece of an engine's log, and where to read on."""

    launch_id: str | None = Field(description="of the start that wrote it; None: there is no log yet")
    text: str
    offset: int = Field(description="bytes from the file's beginning to the end of this piece")


class Endpoint(Value):
    """An endpoint that answered: what the rest of the chain is given."""

    name: str
    url: str = Field(description="base URL that ends in /v1")
    served_model_name: str
    checkpoint: Checkpoint
    engine: str
    engine_version: str
    variant: str | None = None
    rung: str = Field(description="label of the rung it stands on")
    ladder: tuple[RungResult, ...] = Field(description="every rung tried, in order, with the reason of each step down")
    start_seconds: float
    tokens_per_second: float = Field(description="generation speed seen by the dry run, one stream")
    max_context: int


class Parked(Value):
    """A checkpoint that no rung could serve, and why not; kept until an engine serves it."""

    checkpoint: Checkpoint
    ladder: tuple[RungResult, ...] = Field(description="every rung tried, in order, with its reason")
    parked_at: datetime = Field(description="UTC")
