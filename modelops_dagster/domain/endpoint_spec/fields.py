"""What everybody says of an endpoint, whoever writes it down: the fields that specs and files of people share."""

import re
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from modelops_dagster.domain.endpoint_spec.complaints import MISSING, RULE
from modelops_dagster.domain.endpoint_spec.container import (
    AdvancedConfiguration,
    CustomConfiguration,
    Deployment,
    HealthCheck,
    Ports,
    Variables,
    VolumeClaim,
)
from modelops_dagster.domain.endpoint_spec.external import Target
from modelops_dagster.domain.endpoint_spec.quantities import Cpu, Memory
from modelops_dagster.domain.endpoint_spec.rules import IS_MISSING, Problem, problems
from modelops_dagster.domain.endpoint_spec.scaling import AutoscaleConfig, Priority
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# no loader or interpreter variables: an endpoint's spec chooses how an engine runs, not what runs
ENGINE_VARIABLE = re.compile(
    r"(VLLM|NCCL|CUDA|TORCH|TORCHINDUCTOR|OMP|HF_HUB)_(?!.*(KEY|TOKEN|SECRET|PASSWORD))[A-Z0-9_]+"
)
ENDPOINT_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9]))*")
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(?:@[0-9a-f]{7,40})?")
NODE_GROUP = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,250}[A-Za-z0-9])?")


class EndpointFields(Value):
    """Every field that is the same in a spec and in a file of a person's."""

    name: str = Field(min_length=2, max_length=64, description="starts with a letter, ends with a letter or digit")
    model: str | None = Field(
        default=None, max_length=200, description="org/name@commit; kept to say what the checkpoint is"
    )
    deployment: Deployment = Deployment()
    target: Target | None = Field(default=None, description="of deployment.type none: what somebody else serves")

    variant: str | None = Field(default=None, description="named variant of the engine")
    engine_args: tuple[str, ...] = Field(default=(), description="extra arguments, passed as they are, no shell")
    engine_environment: dict[str, str] = Field(
        default_factory=dict, description="extra variables of the engine's process: VLLM_*, NCCL_* and the like"
    )
    quantization: Scheme | None = Field(default=None, description="scheme of the checkpoint; None: whatever it has")
    max_context: int | None = Field(default=None, gt=0, description="context length to serve, in tokens")
    start_timeout_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="overrides the engine's own"
    )

    min_replicas: int = Field(default=1, ge=0, le=100)
    max_replicas: int = Field(default=1, ge=1, le=100)
    scale_to_zero: bool = Field(default=False, description="sleep when nobody asks, wake on the first request")
    autoscale_config: AutoscaleConfig | None = None
    gpus: int = Field(default=0, ge=0, le=1024, description="accelerators of one replica, over all its nodes")
    nodes: int = Field(default=1, ge=1, le=64, description="machines that one replica is spread over")
    priority: Priority = Priority.PREVIEW

    cpu_request: Cpu | None = Field(default=None, description="vCPU that one replica is promised")
    cpu_limit: Cpu | None = Field(default=None, description="vCPU that one replica may use at most")
    memory_request: Memory | None = Field(default=None, description="Gi that one replica is promised")
    memory_limit: Memory | None = Field(default=None, description="Gi that one replica may use at most")
    cluster: str | None = Field(default=None, min_length=1, max_length=253, description="where it is deployed")
    nodegroups: tuple[str, ...] = Field(default=(), max_length=64, description="node groups of the cluster")
    persistent_volume_claims: tuple[VolumeClaim, ...] = Field(default=(), max_length=32)

    ports: Ports | None = None
    healthcheck: HealthCheck | None = None
    env_variables: Variables = Field(default_factory=dict, description="variables of an imported container")
    deployment_custom_configuration: CustomConfiguration | None = None
    async_deployment_type: Literal["SYNC", "ASYNC"] = Field(
        default="SYNC", description="ASYNC: requests wait in a queue and are answered later"
    )
    advanced_configuration: AdvancedConfiguration = AdvancedConfiguration()

    visibility: Literal["public", "private"] = Field(
        default="private", description="public: who reaches its page may talk to it without a key"
    )
    deployment_tag: Literal["testing", "staging", "production"] = Field(
        default="production", description="the environment it belongs to"
    )
    usd_per_hour: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="price of one replica, USD per hour it runs"
    )
    request_timeout_seconds: float | None = Field(
        default=None, gt=0, le=86_400, allow_inf_nan=False, description="longest that one request may take"
    )
    enable_cache: bool = Field(default=False, description="the same request is answered from a cache")
    enable_compression: bool = Field(default=False, description="answers are compressed for clients that take it")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not ENDPOINT_NAME.fullmatch(value):
            raise ValueError(
                f"{value!r} is not an endpoint name: start with a letter, end with a letter or digit, "
                "and use only letters, digits and single '-', '_' or '.' between them"
            )
        return value

    @field_validator("model")
    @classmethod
    def _model(cls, value: str | None) -> str | None:
        if value is not None and not MODEL.fullmatch(value):
            raise ValueError(f"{value!r} is not a model: write org/name@commit, with 7 to 40 hex digits of the commit")
        return value

    @field_validator("variant")
    @classmethod
    def _variant(cls, value: str | None) -> str | None:
        return engine_name(value)

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

    @field_validator("nodegroups")
    @classmethod
    def _nodegroups(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for group in value:
            if not NODE_GROUP.fullmatch(group):
                raise ValueError(f"{group!r} is not a node group: use its name or id")
        if len(set(value)) != len(value):
            raise ValueError("a node group is named twice; name each once")
        return value

    @field_validator("engine_args")
    @classmethod
    def _no_nul(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(without_nul(text) for text in value)

    @model_validator(mode="after")
    def _holds(self) -> Self:
        """Tell what does not hold between fields, each at its field."""
        found = tuple(self._problems())
        if found:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [InitErrorDetails(type=_kind(said), loc=tuple(field.split(".")), input=None) for field, said in found],
            )
        return self

    def _problems(self) -> tuple[Problem, ...]:
        return tuple(problems(self))


def _kind(said: str) -> str | PydanticCustomError:
    return MISSING if said == IS_MISSING else PydanticCustomError(RULE, "{said}", {"said": said})


def engine_name(value: str | None) -> str | None:
    """The name of an engine or of a variant, seen to be one."""
    if value is not None and not ENGINE_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of an engine or variant: use letters, digits, '.', '_', '-'")
    return value


def absolute_path(value: str) -> str:
    """The path of a checkpoint directory, seen to be absolute."""
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path of a checkpoint directory")
    return without_nul(value)


def without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL character cannot be passed to a program")
    return value
