"""What an endpoint would be started with on each rung: checkpoint, overlays, the planned cut, allowed code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest, Rung, StartOverlay
from modelops_dagster.domain.errors import EngineMissing


class EnginesPort(Protocol):
    """What the ladder needs to know of engines; `clients.engines.EngineRegistry` is the real one."""

    def manifest(self, name: str) -> EngineManifest: ...

    def environment(self, name: str) -> Path | None: ...

    def unavailable_reason(self, name: str) -> str | None: ...


def rung_specs(
    checkpoint: Checkpoint,
    given: Mapping[Rung, StartOverlay],
    registry: EnginesPort,
    endpoint_name: str,
    served_model_name: str,
    max_context: int,
    parallel: Mapping[str, Sequence[str]],
) -> dict[Rung, EndpointSpec]:
    """How the endpoint would be started on each rung, highest first.

    Args:
        given: what the start command of each rung is given besides.
        max_context: tokens; the model's own context is used where that is shorter.
        parallel: by engine, arguments that cut the model as planned.
    """
    length = min(max_context, checkpoint.max_context or max_context)
    found: dict[Rung, EndpointSpec] = {}
    for rung, overlay in given.items():
        spec = _spec(checkpoint, rung, overlay, endpoint_name, served_model_name, length)
        found[rung] = _given(spec, checkpoint, registry, parallel)
    return found


def _spec(
    checkpoint: Checkpoint,
    rung: Rung,
    given: StartOverlay,
    endpoint_name: str,
    served_model_name: str,
    max_context: int,
) -> EndpointSpec:
    return EndpointSpec(
        name=endpoint_name,
        model=f"{checkpoint.revision.repo_id}@{checkpoint.revision.commit_hash}",
        quantization=checkpoint.scheme,
        checkpoint=checkpoint.directory,
        checkpoint_digest=checkpoint.digest,
        engine=rung.engine,
        variant=rung.variant,
        engine_args=given.engine_args,
        engine_environment=given.engine_environment,
        served_model_name=served_model_name,
        max_context=max_context,
    )


def _given(
    spec: EndpointSpec, checkpoint: Checkpoint, registry: EnginesPort, parallel: Mapping[str, Sequence[str]]
) -> EndpointSpec:
    """The spec with what the plan and the checkpoint ask for besides."""
    spec = _cut(spec, parallel.get(spec.engine, ()))
    return _with_code(spec, registry) if checkpoint.remote_code else spec


def _cut(spec: EndpointSpec, arguments: Sequence[str]) -> EndpointSpec:
    """The spec with these arguments, unless it says by itself into how many parts the model is cut."""
    if any(name.split("=")[0] in spec.engine_args for name in arguments if name.startswith("--")):
        return spec
    return spec.model_copy(update={"engine_args": (*spec.engine_args, *arguments)})


def _with_code(spec: EndpointSpec, registry: EnginesPort) -> EndpointSpec:
    """The same, by an engine that is told that it may run the checkpoint's own code."""
    try:
        args = registry.manifest(spec.engine).remote_code_args
    except EngineMissing:
        return spec  # the rung says so when it is tried
    return spec.model_copy(update={"engine_args": (*spec.engine_args, *args)})
