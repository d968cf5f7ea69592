"""Engines (serving programs with an environment of their own) and the ladder that decides which one serves a model."""

from typing import Literal

from pydantic import Field

from modelops_dagster.domain.values import Value

FailureReason = Literal[
    "engine_missing",
    "unsupported_architecture",
    "needs_newer_transformers",
    "out_of_memory",
    "bad_config",
    "custom_kernel",
    "timeout",
    "crash",
    "too_slow",
    "garbage",
    "not_tried",
]


class EngineManifest(Value):
    """`engines/<name>/engine.yaml`: how to install, start and recognise one engine."""

    name: str
    summary: str
    version: str = Field(description="of the serving program; part of the lineage")
    accelerators: tuple[Literal["cpu", "cuda"], ...]
    python: str = Field(description="version specifier of the interpreter the environment is made with, e.g. >=3.11")
    platforms: tuple[str, ...] = Field(description="platform tags it has wheels for, e.g. linux-x86_64")
    command: tuple[str, ...] = Field(
        description="argv. Filled in, here and in `environment`: {env} the engine's environment, {engine_dir} the "
        "folder of engine.yaml, {workers} this package's programs that run inside engines, {cpus} cores this process "
        "may use, {checkpoint} {host} {port} {served_model_name} {max_context} from the endpoint; where the "
        "endpoint leaves the context length open, {max_context} and the flag before it are dropped"
    )
    serves: bool = Field(default=True, description="false for environments that only quantize or convert")
    environment: dict[str, str] = Field(default_factory=dict, description="variables set for the process")
    variants: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="named sets of extra arguments, each a rung of its own on the ladder"
    )
    local_distributions: tuple[str, ...] = Field(
        default=(), description="folders beside engine.yaml that are installed after the lock, without dependencies"
    )
    wheel_index: str | None = Field(
        default=None, description="index asked for wheels that the configured index lacks, e.g. +cpu builds of torch"
    )
    start_timeout_s: float = Field(default=600, gt=0)
    remote_code_args: tuple[str, ...] = Field(
        default=(), description="added for a checkpoint whose code an operator allowed; empty where it cannot run any"
    )


class Rung(Value):
    """One step of the ladder: an engine, and which of its variants."""

    engine: str
    variant: str | None = None

    @property
    def label(self) -> str:
        return self.engine if self.variant is None else f"{self.engine}:{self.variant}"


class RungResult(Value):
    """What one rung did with the model. `reason` is None on the rung the model stands on."""

    rung: str
    reason: FailureReason | None = None
    detail: str = Field(default="", description="one sentence, or the engine's last lines")
    seconds: float = Field(default=0, description="wall time spent on this rung")
    engine_version: str = Field(default="", description="version+lock digest of what was tried; empty: not known")


CPU_LADDER = (
    Rung(engine="vllm-cpu"),
    Rung(engine="vllm-cpu", variant="transformers-backend"),
    Rung(engine="transformers"),
)
CUDA_LADDER = (
    Rung(engine="vllm"),
    Rung(engine="vllm-nightly"),
    Rung(engine="vllm", variant="transformers-backend"),
    Rung(engine="transformers"),
)


class EngineStatus(Value):
    """One engine as this machine has it."""

    manifest: EngineManifest
    installed: bool
    unavailable_reason: str | None = Field(default=None, description="why it cannot be installed here, as a sentence")
