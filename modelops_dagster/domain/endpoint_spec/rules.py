"""What must hold between the fields of a spec, each with the field it is told at."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelops_dagster.domain.endpoint_spec.scaling import DEFAULT_COOLDOWN_S

if TYPE_CHECKING:
    from modelops_dagster.domain.endpoint_spec.fields import EndpointFields

Problem = tuple[str, str]
"""(field, what is wrong and what to do, without the end of the sentence)."""

IS_MISSING = "is missing"
_OF_CONTAINERS = ("env_variables", "deployment_custom_configuration")
_OF_WHAT_IS_STARTED = (
    *("variant", "engine_args", "engine_environment", "quantization", "start_timeout_s", "model"),
    *("cpu_request", "cpu_limit", "memory_request", "memory_limit", "gpus", "cluster", "nodegroups"),
    *("persistent_volume_claims", "ports", "autoscale_config", "advanced_configuration", *_OF_CONTAINERS),
)
_OF_ENGINES = ("variant", "engine_args", "engine_environment", "quantization")


def problems(spec: "EndpointFields") -> Iterator[Problem]:
    """Everything that does not hold between the fields of `spec`."""
    yield from _of_deployment(spec)
    yield from _of_replicas(spec)
    yield from _of_resources(spec)
    yield from _of_container(spec)
    yield from _of_asynchrony(spec)


def given(spec: "EndpointFields", names: tuple[str, ...]) -> Iterator[str]:
    """Those of the fields that say something else than their default."""
    fields = type(spec).model_fields
    for name in names:
        field = fields.get(name)
        if field is not None and getattr(spec, name) != field.get_default(call_default_factory=True):
            yield name


def _of_deployment(spec: "EndpointFields") -> Iterator[Problem]:
    kind = spec.deployment.type
    if kind == "none":
        if spec.target is None:
            yield "target", "is missing: give target.api_endpoint.url and target.api_endpoint.model_id"
        for name in given(spec, _OF_WHAT_IS_STARTED):
            yield name, "is of an endpoint that is started, and deployment.type none starts nothing; leave it out"
    elif spec.target is not None:
        yield "target", "is of an endpoint that somebody else serves; set deployment.type to none, or leave it out"
    if (kind == "container") != (spec.deployment.image is not None):
        told = "is missing: name the image of the imported container" if kind == "container" else "is of containers"
        yield "deployment.image", told if kind == "container" else f"{told}; set deployment.type to container"
    if kind == "container":
        for name in given(spec, _OF_ENGINES):
            yield name, "is of our engines; an imported container is told what to do by its command"


def _of_replicas(spec: "EndpointFields") -> Iterator[Problem]:
    if spec.max_replicas < spec.min_replicas:
        yield "max_replicas", f"is {spec.max_replicas} and must be at least min_replicas, which is {spec.min_replicas}"
    if spec.min_replicas == 0 and not spec.scale_to_zero:
        yield "min_replicas", "is 0, which needs scale_to_zero: true; without it at least 1 replica runs"
    if spec.deployment.type == "none" and (spec.scale_to_zero or (spec.min_replicas, spec.max_replicas) != (1, 1)):
        yield "max_replicas", "cannot be chosen for an endpoint that somebody else serves; leave scaling out"
    config = spec.autoscale_config
    if config is not None and config.cooldown_period != DEFAULT_COOLDOWN_S and not spec.scale_to_zero:
        told = "is how long nobody asks before it sleeps, so it needs scale_to_zero: true"
        yield "autoscale_config.cooldown_period", told


def _of_resources(spec: "EndpointFields") -> Iterator[Problem]:
    for name, request, limit in (
        ("cpu_limit", spec.cpu_request, spec.cpu_limit),
        ("memory_limit", spec.memory_request, spec.memory_limit),
    ):
        if request is not None and limit is not None and limit < request:
            asked = name.replace("limit", "request")
            yield name, f"is {limit:g} and must be at least {asked}, which is {request:g}"
    if spec.cluster is not None and not spec.nodegroups:
        yield "nodegroups", "is missing: the list of node groups of the cluster to be deployed on is expected"
    if spec.nodegroups and spec.cluster is None:
        yield "cluster", "is missing: say which cluster has these node groups"
    if spec.nodes > 1 and (spec.gpus == 0 or spec.gpus % spec.nodes):
        yield "gpus", f"is {spec.gpus} and must be a multiple of nodes, which is {spec.nodes}: each node has as many"


def _of_container(spec: "EndpointFields") -> Iterator[Problem]:
    if spec.deployment.type == "container":
        for name in ("ports", "healthcheck"):
            if getattr(spec, name) is None:
                yield name, "is missing: an imported container must say which port it listens on and how it is probed"
    elif spec.deployment.type == "engine":
        for name in given(spec, _OF_CONTAINERS):
            other = "engine_environment" if name == "env_variables" else "engine_args"
            yield name, f"is of imported containers; for an engine use {other}"
    if spec.ports is not None and spec.healthcheck is not None and spec.healthcheck.port not in spec.ports.numbers:
        yield "healthcheck.port", f"is {spec.healthcheck.port}, which is none of the ports it exposes"
    mounted = [claim.mount_path.rstrip("/") for claim in spec.persistent_volume_claims]
    named = [claim.volume_name for claim in spec.persistent_volume_claims]
    if len(set(mounted)) != len(mounted) or len(set(named)) != len(named):
        yield "persistent_volume_claims", "mounts a path, or names a volume, twice; give each its own"


def _of_asynchrony(spec: "EndpointFields") -> Iterator[Problem]:
    queued = spec.async_deployment_type == "ASYNC"
    if queued and spec.deployment.type != "engine":
        yield "async_deployment_type", "ASYNC is only for models that an engine of ours serves; use SYNC"
    targets = spec.autoscale_config.targets if spec.autoscale_config else ()
    if not queued and any(t.metric == "queue_length" for t in targets):
        yield "autoscale_config.targets", "name queue_length, which only an ASYNC endpoint has"
    overrides = spec.advanced_configuration.runtime_overrides
    if not queued and overrides.consumer_count is not None:
        field = "advanced_configuration.runtime_overrides.consumer_count"
        yield field, "is of ASYNC endpoints: set async_deployment_type to ASYNC, or leave it out"
