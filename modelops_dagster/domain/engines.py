"""Engines (serving programs with an environment of their own) and the ladder that decides which one serves a model."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

FailureReason = Literal[
    "engine_missing",
    "unsupported_architecture",
    "unsupported_scheme",
    "needs_newer_transformers",
    "out_of_memory",
    "bad_config",
    "custom_kernel",
    "timeout",
    "crash",
    "too_slow",
    "garbage",
    "not_tried",
    "no_image",
    "unschedulable",
]


class EngineManifest(Value):
    """`engines/<name>/engine.yaml`: how to install, start and recognise one engine.

    An operator's own engine, `$MODELOPS_HOME/engines/<name>/engine.yaml`, names the engine it `extends` and holds only
    what differs.
    """

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
    one_image: bool = Field(
        default=False,
        description="an endpoint without GPUs, too, runs in the image for GPUs: told by a cluster with GPUs, whose "
        "lineage names one lock of an engine",
    )
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
    health_path: str | None = Field(
        default=None,
        pattern=r"^/[A-Za-z0-9_./-]*$",
        description="has to answer 200 too, where listing the model in /v1/models does not show that it can be asked",
    )
    remote_code_args: tuple[str, ...] = Field(
        default=(), description="added for a checkpoint whose code an operator allowed; empty where it cannot run any"
    )
    made_up_weights_args: tuple[str, ...] = Field(
        default=(), description="added to start it from the small files alone, with weights made up; empty: it cannot"
    )
    drain_args: tuple[str, ...] = Field(
        default=(),
        description="added on a cluster, which tells engines to end at any time: with them it first finishes the calls "
        "under way, for up to {drain_s} seconds; empty: it does so without being told how, or cannot",
    )
    argument_parser: tuple[str, ...] = Field(
        default=(),
        description="entry point (module:function) that parses the engine's arguments, then the words that stand "
        "before them; empty: arguments are passed on unchecked",
    )
    schemes: tuple[Scheme, ...] = Field(default=(), description="schemes it loads; empty: any may be tried")
    architectures: tuple[str, ...] = Field(
        default=(), description="patterns (*ForCausalLM) of the architectures it is for; empty: any may be tried"
    )
    takes_recipes: bool = Field(default=False, description="whether vLLM's recipes are written in its arguments")
    extends: str | None = Field(default=None, description="the engine this one differs from")
    requirements: tuple[str, ...] = Field(
        default=(),
        description="installed after the lock, without dependencies: NAME==VERSION, NAME @ git+URL@COMMIT, or the "
        "path of a wheel or source folder. With nightly_index: what is resolved at install time",
    )
    without: tuple[str, ...] = Field(default=(), description="distributions of the lock that are left out")
    nightly_index: str | None = Field(
        default=None,
        description="index of nightly wheels: instead of a lock, the newest of `requirements` is resolved at install "
        "time, into an environment named after the day",
    )

    @property
    def full_version(self) -> str:
        """The version with what was put over it, for the lineage."""
        over = self.requirements if self.nightly_index is None else ()
        return f"{self.version} with {', '.join(over)}" if over else self.version

    @property
    def runs_on_either(self) -> bool:
        """Whether it is built twice: for machines with GPUs, and for those without."""
        return {"cuda", "cpu"} <= set(self.accelerators)

    def hidden_gpus(self, gpus: int) -> dict[str, str]:
        """Variables of an endpoint that asks for so many GPUs: one that can do without and asks for none sees none,
        since those there are, are others'."""
        return {"CUDA_VISIBLE_DEVICES": ""} if gpus == 0 and self.runs_on_either else {}

    def is_for(self, architectures: Sequence[str]) -> bool:
        """Whether it is worth trying with a model of these architectures, as far as the manifest says."""
        if not self.architectures or not architectures:
            return True
        return any(fnmatchcase(name, pattern) for name in architectures for pattern in self.architectures)


class EngineOverride(Value):
    """The engine an operator wants for some models: it is tried before the ladder's own rungs."""

    repo_id: str = Field(description="pattern of repo_ids, e.g. acme/odd-*; case does not count")
    engine: str
    variant: str | None = None
    engine_args: tuple[str, ...] = Field(default=(), description="given to this engine alone")
    engine_environment: dict[str, str] = Field(default_factory=dict)

    def covers(self, repo_id: str) -> bool:
        return fnmatchcase(repo_id.lower(), self.repo_id.lower())


class StartOverlay(Value):
    """What a rung's start command is given besides, and why."""

    engine_args: tuple[str, ...] = ()
    engine_environment: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = Field(default=(), description="where it comes from, and what was dropped of it")


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
    notes: tuple[str, ...] = Field(default=(), description="what the start command was given besides, and from where")
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
