"""The pod an endpoint runs in: one container, what it may touch, what it is given, when it counts as ready."""

import math
import re
from collections.abc import Mapping
from typing import Any

from modelops_dagster.domain.endpoint_spec.container import REFERENCE, HealthCheck
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engine_commands import fill, fill_command
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import HTTP_PORT, slug
from modelops_dagster.domain.kubernetes.site import Site

Manifest = dict[str, Any]
CONTAINER = "engine"
WORKERS_PATH = "/opt/modelops/workers"  # where the Dockerfiles put this package's own servers
SCRATCH_PATH = "/scratch"
TMP_PATH = "/tmp"  # noqa: S108 - inside a container, and a volume of its own
DRAIN_S = 5  # between leaving the Service and SIGTERM: what proxies need to follow
GRACE_S = 120
_TEARDOWN_S = 10  # of the grace period: what an engine needs to end once its last call is over
_IMPORTED_START_S = 600.0
_TENSOR = re.compile(r"--tensor-parallel-size(?:=.*)?|-tp(?:=.*)?")
_PIPELINE = re.compile(r"--pipeline-parallel-size(?:=.*)?|-pp(?:=.*)?")


def start_timeout_s(spec: EndpointSpec, engine: EngineManifest | None) -> float:
    """Longest from the container's start to its first answer."""
    return spec.start_timeout_s or (engine.start_timeout_s if engine is not None else _IMPORTED_START_S)


def pod_spec(
    spec: EndpointSpec, site: Site, engine: EngineManifest | None, extra_args: tuple[str, ...] = ()
) -> Manifest:
    """Everything under a pod template's `spec`.

    Args:
        engine: None for an imported container.
        extra_args: put after the engine's own arguments.

    Raises:
        InvalidSpec: the cluster cannot do what the spec asks for.
    """
    container = _imported(spec) if engine is None else _engine(spec, site, engine, extra_args)
    container |= {
        "securityContext": container_security(read_only_root=engine is not None or site.imported_read_only_root),
        "volumeMounts": _mounts(spec, site),
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_S}}},
    }
    resources = _resources(spec, site)
    if resources:
        container["resources"] = resources
    pod: Manifest = {
        "priorityClassName": site.priority_classes[spec.priority],
        "terminationGracePeriodSeconds": DRAIN_S + _grace_s(spec),
        **pod_security(site),
        "containers": [container],
        "volumes": _volumes(spec, site),
    }
    return pod | placement(site, spec.nodegroups, gpus=spec.gpus)


def _grace_s(spec: EndpointSpec) -> int:
    """Seconds between SIGTERM and SIGKILL."""
    asked = spec.advanced_configuration.runtime_overrides.termination_grace_period_seconds
    return GRACE_S if asked is None else asked


def pod_security(site: Site) -> Manifest:
    """What a pod may not do, whatever runs in it."""
    return {
        # an engine has no business with the API server, and a stolen token would have
        "automountServiceAccountToken": False,
        # a Service called vllm would put VLLM_PORT into every pod, which vLLM reads
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": site.user_id,
            "runAsGroup": site.user_id,
            "fsGroup": site.user_id,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def container_security(*, read_only_root: bool = True) -> Manifest:
    """What a container may not do."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": read_only_root,
        "capabilities": {"drop": ["ALL"]},
    }


def placement(site: Site, nodegroups: tuple[str, ...], *, gpus: int) -> Manifest:
    """On which nodes a pod may be, and with which right to pull its image."""
    placed: Manifest = {}
    if nodegroups:
        wanted = {"key": site.node_group_label, "operator": "In", "values": list(nodegroups)}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
        placed["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    if gpus and site.tolerations:
        placed["tolerations"] = [t.model_dump(exclude_none=True) for t in site.tolerations]
    if site.image_pull_secrets:
        placed["imagePullSecrets"] = [{"name": name} for name in site.image_pull_secrets]
    return placed


def quantity(gib: float) -> str:
    """An amount of memory as Kubernetes writes it."""
    return f"{gib:.0f}Gi" if gib == int(gib) else f"{gib * 1024:.0f}Mi"


def cpu_quantity(vcpu: float) -> str:
    return f"{vcpu:.0f}" if vcpu == int(vcpu) else f"{vcpu * 1000:.0f}m"


def environment(variables: Mapping[str, str], secret: str) -> list[Manifest]:
    """Variables of a container; `${NAME}` is read from the key NAME of the Secret, so no manifest holds a secret."""
    listed: list[Manifest] = []
    for name, value in sorted(variables.items()):
        if REFERENCE.fullmatch(value):
            source = {"secretKeyRef": {"name": secret, "key": value[2:-1]}}
            listed.append({"name": name, "valueFrom": source})
        else:
            listed.append({"name": name, "value": value})
    return listed


def program(engine: EngineManifest, values: Mapping[str, str | None]) -> tuple[list[str], dict[str, str]]:
    """The argv of an engine in its own image, and the variables it is given.

    Args:
        values: of the placeholders that are not the image's own.
    """
    filled: dict[str, str | None] = {"env": SCRATCH_PATH, "engine_dir": None, "workers": WORKERS_PATH, **values}
    # the program is on the image's PATH; on one machine it is in an environment of its own
    argv = [item.replace(f"{SCRATCH_PATH}/bin/", "") for item in fill_command(engine.command, filled)]
    variables = {"HOME": SCRATCH_PATH, "XDG_CACHE_HOME": f"{SCRATCH_PATH}/cache"}
    for name, value in engine.environment.items():
        if value != "{cpus}" or filled["cpus"] is not None:
            variables[name] = fill(value, filled)
    return argv, variables


def image_version(engine: EngineManifest, gpus: int) -> str:
    """The tag of an engine's image: one that is built twice has an image for GPUs, with the CUDA build of torch."""
    return f"{engine.version}-cuda" if engine.runs_on_either and (gpus or engine.one_image) else engine.version


def secret_name(name: str) -> str:
    """The Secret that the variables of an endpoint's container may refer to."""
    return f"{slug(name)}-env"


def _engine(spec: EndpointSpec, site: Site, engine: EngineManifest, extra_args: tuple[str, ...]) -> Manifest:
    cpus = spec.cpu_limit or spec.cpu_request
    values = {
        "cpus": None if cpus is None else str(math.ceil(cpus)),
        "checkpoint": site.checkpoint_path(spec.checkpoint),
        "host": "0.0.0.0",  # noqa: S104 - a pod's own address; a NetworkPolicy says who may come
        "port": str(HTTP_PORT),
        "served_model_name": spec.served_model_name,
        "max_context": None if spec.max_context is None else str(spec.max_context),
        "drain_s": str(max(0, _grace_s(spec) - _TEARDOWN_S)),
    }
    if spec.variant and spec.variant not in engine.variants:
        known = ", ".join(engine.variants) or "none"
        raise InvalidSpec(f"Engine {engine.name} has no variant {spec.variant!r}; it has: {known}.", field="variant")
    argv, variables = program(engine, values)
    argv += [fill(item, values) for item in engine.variants.get(spec.variant or "", ())]
    argv += [fill(item, values) for item in engine.drain_args]
    argv += [*spec.engine_args, *_parallel_args(spec, engine), *extra_args]
    failures = math.ceil(start_timeout_s(spec, engine) / 10)
    health = engine.health_path or "/health"
    return {
        "name": CONTAINER,
        "image": site.image(engine.name, image_version(engine, spec.gpus)),
        "command": argv[:1],
        "args": argv[1:],
        "env": environment(variables | engine.hidden_gpus(spec.gpus) | spec.engine_environment, secret_name(spec.name)),
        "ports": [{"name": "http", "containerPort": HTTP_PORT}],
        "startupProbe": _probe(health, "http", period_s=10, failures=failures),
        "readinessProbe": _probe(health, "http", period_s=5, failures=3),
        "livenessProbe": _probe(health, "http", period_s=15, failures=4),
    }


def _imported(spec: EndpointSpec) -> Manifest:
    ports, check = spec.ports, spec.healthcheck
    if ports is None or check is None or spec.deployment.image is None:
        raise InvalidSpec(f"Endpoint {spec.name} is not a container that can be started.", field="deployment")
    listed: list[Manifest] = [{"name": "http", "containerPort": ports.http.port}]
    if ports.grpc is not None:
        listed.append({"name": "grpc", "containerPort": ports.grpc.port})
    container: Manifest = {"name": CONTAINER, "image": spec.deployment.image, "ports": listed}
    custom = spec.deployment_custom_configuration
    if custom is not None:
        for field, value in (("command", custom.entrypoint), ("args", custom.command)):
            if value:
                container[field] = list(value)
        if custom.working_dir is not None:
            container["workingDir"] = custom.working_dir
    if spec.env_variables:
        container["env"] = environment(spec.env_variables, secret_name(spec.name))
    failures = math.ceil(start_timeout_s(spec, None) / check.period_s)
    container["startupProbe"] = _checked(check, failures) | {"initialDelaySeconds": check.initial_delay_s}
    container["readinessProbe"] = _checked(check, 3)
    return container


def _checked(check: HealthCheck, failures: int) -> Manifest:
    return _probe(check.path, check.port, period_s=check.period_s, failures=failures, timeout_s=check.timeout_s)


def _probe(path: str, port: str | int, *, period_s: int, failures: int, timeout_s: int = 5) -> Manifest:
    asked = {"path": path, "port": port}
    return {"httpGet": asked, "periodSeconds": period_s, "timeoutSeconds": timeout_s, "failureThreshold": failures}


def _parallel_args(spec: EndpointSpec, engine: EngineManifest) -> tuple[str, ...]:
    """One model over all GPUs of a pod, unless the spec cuts it itself: tensor parallel in a node, stages across."""
    if spec.gpus < 2 or not is_vllm(engine.name):
        return ()
    found: tuple[str, ...] = ()
    staged = any(_PIPELINE.fullmatch(argument) for argument in spec.engine_args)
    if not any(_TENSOR.fullmatch(argument) for argument in spec.engine_args) and (spec.nodes > 1 or not staged):
        found += ("--tensor-parallel-size", str(spec.gpus // spec.nodes))
    if spec.nodes > 1 and not staged:
        found += ("--pipeline-parallel-size", str(spec.nodes))
    return found


def is_vllm(engine: str) -> bool:
    """Whether it takes vLLM's arguments and exports vLLM's metrics."""
    return engine == "vllm" or engine.startswith("vllm-")


def _resources(spec: EndpointSpec, site: Site) -> Manifest:
    requests: Manifest = {}
    limits: Manifest = {}
    for bounds, vcpu, gib in (
        (requests, spec.cpu_request, spec.memory_request),
        (limits, spec.cpu_limit, spec.memory_limit),
    ):
        if vcpu is not None:
            bounds["cpu"] = cpu_quantity(vcpu)
        if gib is not None:
            bounds["memory"] = quantity(gib)
    if spec.gpus:
        requests[site.gpu_resource] = limits[site.gpu_resource] = str(spec.gpus // spec.nodes)
    return {name: bounds for name, bounds in (("requests", requests), ("limits", limits)) if bounds}


def _mounts(spec: EndpointSpec, site: Site) -> list[Manifest]:
    mounts: list[Manifest] = []
    if spec.deployment.type == "engine":
        store = site.checkpoints
        mounts += [
            {"name": "checkpoints", "mountPath": store.mount_path, "subPath": store.sub_path, "readOnly": True},
            {"name": "scratch", "mountPath": SCRATCH_PATH},
            {"name": "scratch", "mountPath": TMP_PATH, "subPath": "tmp"},
        ]
    else:
        mounts.append({"name": "scratch", "mountPath": TMP_PATH})
    if spec.gpus > 1:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - the container's own
    mounts += [
        {"name": c.volume_name, "mountPath": c.mount_path}
        | ({"readOnly": True} if c.access_mode == "ReadOnlyMany" else {})
        for c in spec.persistent_volume_claims
    ]
    return mounts


def _volumes(spec: EndpointSpec, site: Site) -> list[Manifest]:
    volumes: list[Manifest] = []
    if spec.deployment.type == "engine":
        claim = {"claimName": site.checkpoints.claim, "readOnly": True}
        volumes.append({"name": "checkpoints", "persistentVolumeClaim": claim})
    volumes.append({"name": "scratch", "emptyDir": {"sizeLimit": quantity(site.scratch_gib)}})
    if spec.gpus > 1:
        memory = {"medium": "Memory", "sizeLimit": quantity(site.shared_memory_gib)}
        volumes.append({"name": "shm", "emptyDir": memory})
    volumes += [
        {"name": c.volume_name, "persistentVolumeClaim": {"claimName": claim_name(spec, c.volume_name)}}
        for c in spec.persistent_volume_claims
    ]
    return volumes


def claim_name(spec: EndpointSpec, volume: str) -> str:
    """The PersistentVolumeClaim behind a volume; it belongs to the endpoint and outlives its revisions."""
    return f"{slug(spec.name)}-{volume}"
