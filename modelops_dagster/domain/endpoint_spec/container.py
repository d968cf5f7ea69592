"""What is said about the container an endpoint runs in: its ports, probes, volumes and command.

Names are those of Kubernetes and of the deployment APIs that follow it.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator

from modelops_dagster.domain.values import Value

IMAGE = re.compile(r"[a-z0-9]+(?:[._:/-]+[A-Za-z0-9_]+)*(?:@sha256:[0-9a-f]{64})?")
VOLUME_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")

AccessMode = Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]


def _image(value: str) -> str:
    if not IMAGE.fullmatch(value):
        raise ValueError(f"{value!r} is not a container image: write registry/name:tag or registry/name@sha256:…")
    return value


def _variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a variable: use letters, digits and '_'")
        if "\0" in value:
            raise ValueError(f"{name} holds a NUL character, which cannot be passed to a program")
        if SECRET_VARIABLE.search(name) and not REFERENCE.fullmatch(value):
            raise ValueError(
                f"{name} looks like a secret, and a spec holds none: write ${{{name}}} and set that variable instead"
            )
    return variables


Image = Annotated[str, Field(max_length=512), AfterValidator(_image)]
"""Where a container comes from, as registry/name:tag or registry/name@sha256:…"""
Variables = Annotated[dict[str, str], AfterValidator(_variables)]
"""Variables of a container; secrets are named and not written."""


class Part(Value):
    """A part of a spec whose fields are also known by the names Kubernetes gives them, which is how it is written."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class Deployment(Value):
    """What runs: an engine of ours, an imported container, or nothing, because somebody else serves it."""

    type: Literal["engine", "container", "none"] = "engine"
    image: Image | None = Field(default=None, description="of an imported container, with its tag")


class HealthCheck(Part):
    """When a container is ready for traffic."""

    path: str = Field(max_length=512, description="HTTP path that answers 200 without a key")
    port: int = Field(ge=1, le=65535, description="port to ask")
    initial_delay_s: int = Field(
        default=30, ge=0, le=86_400, alias="initialDelaySeconds", description="seconds before the first question"
    )
    period_s: int = Field(
        default=10, ge=1, le=86_400, alias="periodSeconds", description="seconds between two questions"
    )
    timeout_s: int = Field(default=5, ge=1, le=3600, alias="timeoutSeconds", description="seconds one may take")

    @field_validator("path")
    @classmethod
    def _path(cls, value: str) -> str:
        if not value.startswith("/") or any(c.isspace() or c in "\0?#" for c in value):
            raise ValueError(f"{value!r} is not a path: it starts with '/', as /health does")
        return value


class Port(Value):
    port: int = Field(ge=1, le=65535, description="port the container listens on")


class Ports(Value):
    """What the container listens on; only these two protocols are known."""

    http: Port
    grpc: Port | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        return (self.http.port, *((self.grpc.port,) if self.grpc else ()))


class VolumeClaim(Value):
    """Storage that outlives a replica."""

    mount_path: str = Field(max_length=512, description="absolute path in the container")
    size: str = Field(description="Gi, a whole number")
    name: str = Field(default="", description="default: pvc-<mount_path>")
    access_mode: AccessMode = "ReadWriteMany"

    @field_validator("mount_path")
    @classmethod
    def _mount_path(cls, value: str) -> str:
        if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
            raise ValueError(f"{value!r} is not an absolute path, as /data is")
        return value

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        text = str(value).removesuffix("Gi") if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if not re.fullmatch(r"[1-9]\d{0,6}", text):
            raise ValueError(f"{value!r} is not a size: write a whole number of Gi above 0, such as 50")
        return text

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not VOLUME_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not the name of a volume: use lower-case letters, digits and '-'")
        return value

    @property
    def volume_name(self) -> str:
        """The name it has, or the one it gets."""
        return self.name or "pvc-" + (re.sub(r"[^a-z0-9]+", "-", self.mount_path.lower()).strip("-")[:59] or "root")


class CustomConfiguration(Part):
    """What an imported container runs instead of what its image says."""

    entrypoint: tuple[str, ...] | None = Field(default=None, min_length=1, description="program and first arguments")
    command: tuple[str, ...] = Field(default=(), description="arguments after the entrypoint")
    working_dir: str | None = Field(default=None, alias="workingDir", description="absolute path in the container")

    @field_validator("working_dir")
    @classmethod
    def _working_dir(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("/"):
            raise ValueError(f"{value!r} is not an absolute path, as /app is")
        return value

    @field_validator("entrypoint", "command")
    @classmethod
    def _no_nul(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if any("\0" in text for text in value or ()):
            raise ValueError("a NUL character cannot be passed to a program")
        return value


class RuntimeOverrides(Value):
    consumer_count: int | None = Field(
        default=None, ge=1, le=1000, description="requests one replica takes from the queue at once; of ASYNC endpoints"
    )
    termination_grace_period_seconds: int | None = Field(
        default=None, ge=0, le=86_400, description="between the request to end and the end"
    )


class AdvancedConfiguration(Value):
    runtime_overrides: RuntimeOverrides = RuntimeOverrides()
