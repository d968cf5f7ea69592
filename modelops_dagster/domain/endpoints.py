"""An endpoint: one base URL serving one checkpoint through one engine, and the states it goes through."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoint_spec import (
    ENDPOINT_NAME,
    ENGINE_NAME,
    ENGINE_VARIABLE,
    AutoscaleConfig,
    AutoscaleMetric,
    AutoscaleTarget,
    EndpointSpec,
    Priority,
)
from modelops_dagster.domain.engines import FailureReason, RungResult
from modelops_dagster.domain.values import Value

__all__ = [
    "ENDPOINT_NAME",
    "ENGINE_NAME",
    "ENGINE_VARIABLE",
    "FAILED_STATES",
    "AutoscaleConfig",
    "AutoscaleMetric",
    "AutoscaleTarget",
    "Condition",
    "Endpoint",
    "EndpointSpec",
    "EndpointState",
    "EndpointStatus",
    "LogChunk",
    "Parked",
    "Priority",
    "ReplicaStatus",
]


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


class ReplicaStatus(Value):
    """One replica of an endpoint, as the controller reports it."""

    index: int
    state: EndpointState
    condition: Condition | None = None
    url: str | None = Field(default=None, description="base URL that ends in /v1, while it answers")
    pid: int | None = None
    devices: tuple[str, ...] = Field(default=(), description="accelerators it was given")
    message: str = ""
    restarts: int = 0
    since: datetime = Field(description="when the present state was entered, UTC")


class EndpointStatus(Value):
    """Observed state, as the controller reports it."""

    spec: EndpointSpec
    desired: Literal["Running", "Stopped"]
    state: EndpointState
    condition: Condition | None = None
    url: str | None = Field(default=None, description="base URL that ends in /v1, while it answers")
    reason: FailureReason | None = None
    message: str = Field(default="", description="one sentence a person can act on; empty when all is well")
    queued: bool = Field(default=False, description="it waits for accelerators, and `message` says for whose")
    log_tail: str = Field(default="", description="the engine's last lines, when it failed")
    pid: int | None = None
    restarts: int = 0
    since: datetime = Field(description="when the present state was entered, UTC")
    start_seconds: float | None = Field(default=None, description="measured time from start to ready")
    engine_version: str | None = Field(default=None, description="version of the engine that was started last")
    replicas: tuple[ReplicaStatus, ...] = Field(default=(), description="each engine of the endpoint")

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
