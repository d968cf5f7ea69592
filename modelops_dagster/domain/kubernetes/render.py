"""The objects of one revision of an endpoint, as they are applied. Pure: the same spec and site give the same text."""

from collections.abc import Mapping
from typing import Any

from modelops_dagster.domain.endpoints import EndpointSpec, Priority
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec
from modelops_dagster.domain.kubernetes.names import (
    HTTP_PORT,
    NAME_ANNOTATION,
    REVISION_LABEL,
    labels,
    object_name,
    selector,
)
from modelops_dagster.domain.kubernetes.pods import (
    claim_name,
    is_vllm,
    pod_spec,
    quantity,
    start_timeout_s,
)
from modelops_dagster.domain.kubernetes.queues import QUEUE_LABEL, consumer, is_queued, trigger_authentication
from modelops_dagster.domain.kubernetes.scaling import is_autoscaled, scaled_object
from modelops_dagster.domain.kubernetes.site import Site

Manifest = dict[str, Any]
_RANKS = ("--distributed-executor-backend", "mp", "--nnodes", "$(LWS_GROUP_SIZE)")
_MASTER = ("--master-addr", "$(LWS_LEADER_ADDRESS)", "--master-port", "29501")
LEADER = "leader"
ROLE_LABEL = "modelops.dev/role"


def render(spec: EndpointSpec, site: Site, engines: Mapping[str, EngineManifest], revision: int = 1) -> list[Manifest]:
    """Every object of one revision, in the order they are applied: volumes, the workload, then what refers to it.

    Args:
        engines: manifests by name; an imported container needs none.
        revision: of the endpoint. Each has objects of its own, so canary, blue-green and roll-back are all the same:
            moving weights between revisions.

    Raises:
        InvalidSpec: the cluster cannot do what the spec asks for.
        EngineMissing: there is no such engine.
    """
    engine = _engine(spec, engines)
    _refuse(spec, engine)
    workload = _deployment(spec, site, engine, revision) if spec.nodes == 1 else _group(spec, site, engine, revision)
    rendered = [*_claims(spec, site), workload, _service(spec, revision), _budget(spec, revision)]
    if is_autoscaled(spec, site):
        if is_queued(spec):
            rendered.append(trigger_authentication(spec, site))
        target = {"apiVersion": workload["apiVersion"], "kind": workload["kind"]}
        rendered.append(scaled_object(spec, site, revision, target, start_timeout_s(spec, engine)))
    else:
        workload["spec"] = {"replicas": max(1, spec.min_replicas), **workload["spec"]}
    return [_headed(item, spec, site, revision) for item in rendered]


def _engine(spec: EndpointSpec, engines: Mapping[str, EngineManifest]) -> EngineManifest | None:
    if spec.is_external:
        raise InvalidSpec(f"Endpoint {spec.name} is served elsewhere; nothing is deployed for it.", field="deployment")
    if spec.deployment.type == "container":
        return None
    found = engines.get(spec.engine)
    if found is None:
        raise EngineMissing(f"There is no engine {spec.engine!r}; the engines are: {', '.join(engines)}.")
    return found


def _refuse(spec: EndpointSpec, engine: EngineManifest | None) -> None:
    if spec.nodes > 1 and (engine is None or not is_vllm(engine.name)):
        raise InvalidSpec(
            f"One replica over {spec.nodes} nodes is what vLLM does; {spec.engine or 'a container'} does not.",
            field="nodes",
        )


def _headed(item: Manifest, spec: EndpointSpec, site: Site, revision: int) -> Manifest:
    """The object with its name, its labels and, first of all, what it is."""
    metadata: Manifest = {
        "name": object_name(spec.name, revision),
        "namespace": site.namespace,
        "labels": labels(spec.name, revision) | item.get("metadata", {}).pop("labels", {}),
        "annotations": {NAME_ANNOTATION: spec.name},
    } | item.pop("metadata", {})
    if item["kind"] == "PersistentVolumeClaim":
        del metadata["labels"][REVISION_LABEL]  # it outlives them
    return {"apiVersion": item.pop("apiVersion"), "kind": item.pop("kind"), "metadata": metadata, **item}


def _claims(spec: EndpointSpec, site: Site) -> list[Manifest]:
    """Volumes of the endpoint. They carry no revision, and outlive every one."""
    claims: list[Manifest] = []
    for claim in spec.persistent_volume_claims:
        wanted: Manifest = {
            "accessModes": [claim.access_mode],
            "resources": {"requests": {"storage": quantity(float(claim.size))}},
        }
        if site.storage_class is not None:
            wanted["storageClassName"] = site.storage_class
        metadata = {"name": claim_name(spec, claim.volume_name)}
        claims.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wanted})
    return claims


def _queued(spec: EndpointSpec, site: Site) -> dict[str, str]:
    """Labels by which Kueue admits the workload."""
    if site.kueue is None:
        return {}
    research = spec.priority is Priority.RESEARCH
    return {
        "kueue.x-k8s.io/queue-name": site.kueue.research_queue if research else site.kueue.serving_queue,
        "kueue.x-k8s.io/priority-class": site.priority_classes[spec.priority],
    }


def _answering(spec: EndpointSpec, site: Site, engine: EngineManifest | None, revision: int, **role: str) -> Manifest:
    """The template of the pods that answer: the one of a replica, or the first of its nodes."""
    ranks = () if spec.nodes == 1 else (*_RANKS, "--node-rank", "0", *_MASTER)
    pod = pod_spec(spec, site, engine, ranks)
    if not is_queued(spec):
        return _template(spec, revision, pod, **role)
    pod["containers"].append(consumer(spec, site, engine))
    return _template(spec, revision, pod, **{QUEUE_LABEL: "true"}, **role)


def _template(spec: EndpointSpec, revision: int, pod: Manifest, **more: str) -> Manifest:
    metadata = {"labels": labels(spec.name, revision) | more, "annotations": {NAME_ANNOTATION: spec.name}}
    return {"metadata": metadata, "spec": pod}


def _deployment(spec: EndpointSpec, site: Site, engine: EngineManifest | None, revision: int) -> Manifest:
    deadline_s = site.placing_timeout_s + start_timeout_s(spec, engine)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"labels": _queued(spec, site)},
        "spec": {
            "progressDeadlineSeconds": int(deadline_s),
            "revisionHistoryLimit": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "selector": {"matchLabels": selector(spec.name, revision)},
            "template": _answering(spec, site, engine, revision),
        },
    }


def _group(spec: EndpointSpec, site: Site, engine: EngineManifest | None, revision: int) -> Manifest:
    """A replica over several nodes: a leader that answers and workers that compute, started and ended together."""
    rank = ("--node-rank", "$(LWS_WORKER_INDEX)")
    worker = pod_spec(spec, site, engine, (*_RANKS, *rank, *_MASTER, "--headless"))
    for container in worker["containers"]:
        # it computes for its leader and answers nobody: no port, and nothing a probe could ask
        for field in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(field, None)
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"labels": _queued(spec, site)},
        "spec": {
            "startupPolicy": "LeaderCreated",
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": spec.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": _answering(spec, site, engine, revision, **{ROLE_LABEL: LEADER}),
                "workerTemplate": _template(spec, revision, worker, **{ROLE_LABEL: "worker"}),
            },
        },
    }


def _service(spec: EndpointSpec, revision: int) -> Manifest:
    found = selector(spec.name, revision) | ({ROLE_LABEL: LEADER} if spec.nodes > 1 else {})
    ports: list[Manifest] = [{"name": "http", "port": HTTP_PORT, "targetPort": "http"}]
    if spec.ports is not None and spec.ports.grpc is not None:
        ports.append({"name": "grpc", "port": spec.ports.grpc.port, "targetPort": "grpc", "appProtocol": "grpc"})
    return {"apiVersion": "v1", "kind": "Service", "spec": {"selector": found, "ports": ports}}


def _budget(spec: EndpointSpec, revision: int) -> Manifest:
    found = {"matchLabels": selector(spec.name, revision)}
    limit: Manifest = {"maxUnavailable": 1, "selector": found, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": limit}
