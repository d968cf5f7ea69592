"""What an endpoint would be started with on each rung: checkpoint, overlays, the planned cut, allowed code."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Protocol

from modelops_dagster.domain.capacity import PARALLEL_ARGUMENTS, Placement
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest, Rung, StartOverlay
from modelops_dagster.domain.errors import EngineMissing


class EnginesPort(Protocol):
    """What the ladder needs to know of engines; `clients.engines.EngineRegistry` is the real one."""

    def manifest(self, name: str) -> EngineManifest: ...

    def missing(self, name: str) -> str | None: ...


def rung_specs(
    checkpoint: Checkpoint,
    given: Mapping[Rung, StartOverlay],
    registry: EnginesPort,
    endpoint_name: str,
    served_model_name: str,
    max_context: int,
    placements: Mapping[str, Placement],
) -> dict[Rung, EndpointSpec]:
    """How the endpoint would be started on each rung, highest first.

    Args:
        given: what the start command of each rung is given besides.
        max_context: tokens; the model's own context is used where that is shorter.
        placements: by engine, on how many accelerators it is planned; one that is not in it takes none.
    """
    length = min(max_context, checkpoint.max_context or max_context)
    found: dict[Rung, EndpointSpec] = {}
    for rung, overlay in given.items():
        spec = _spec(checkpoint, rung, overlay, endpoint_name, served_model_name, length)
        found[rung] = _given(spec, checkpoint, registry, placements)
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
    spec: EndpointSpec, checkpoint: Checkpoint, registry: EnginesPort, placements: Mapping[str, Placement]
) -> EndpointSpec:
    """The spec with what the plan and the checkpoint ask for besides."""
    spec = _placed(spec, placements.get(spec.engine, Placement()))
    return _with_code(spec, registry) if checkpoint.remote_code else spec


def _placed(spec: EndpointSpec, planned: Placement) -> EndpointSpec:
    """The spec on as many accelerators as planned, unless it says by itself into how many parts the model is cut."""
    own = _parts(spec.engine_args)
    if own is None:
        return spec.model_copy(
            update={
                "gpus": planned.gpus,
                "nodes": planned.nodes,
                "engine_args": (*spec.engine_args, *planned.arguments),
            }
        )
    return spec.model_copy(update={"gpus": own if planned.gpus else 0})


def _parts(engine_args: Sequence[str]) -> int | None:
    """Into how many parts these arguments cut or copy the model, each on an accelerator of its own; None: none does."""
    words = [word for argument in engine_args for word in argument.split("=", 1)]
    counts = [int(n) for name, n in pairwise(words) if name in PARALLEL_ARGUMENTS and n.isdigit()]
    return prod(counts) if counts else None


def _with_code(spec: EndpointSpec, registry: EnginesPort) -> EndpointSpec:
    """The same, by an engine that is told that it may run the checkpoint's own code."""
    try:
        args = registry.manifest(spec.engine).remote_code_args
    except EngineMissing:
        return spec  # the rung says so when it is tried
    return spec.model_copy(update={"engine_args": (*spec.engine_args, *args)})
