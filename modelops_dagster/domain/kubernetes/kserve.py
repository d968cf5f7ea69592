"""The same endpoint as KServe writes it (LLMInferenceService v1alpha2), for clusters that run KServe. Export only."""

from collections.abc import Mapping
from typing import Any

from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import labels, object_name
from modelops_dagster.domain.kubernetes.pods import is_vllm
from modelops_dagster.domain.kubernetes.queues import is_queued
from modelops_dagster.domain.kubernetes.render import render
from modelops_dagster.domain.kubernetes.scaling import is_autoscaled
from modelops_dagster.domain.kubernetes.site import Site

Manifest = dict[str, Any]
_OF_SCALING = ("pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount", "triggers")
_OF_CONTAINER = ("image", "env", "resources", "securityContext", "volumeMounts")
_OF_POD = ("priorityClassName", "affinity", "tolerations", "imagePullSecrets", "securityContext", "volumes")


def kserve_service(
    spec: EndpointSpec, site: Site, engines: Mapping[str, EngineManifest], revision: int = 1
) -> Manifest:
    """One object for what `render` says in several.

    Raises:
        InvalidSpec: KServe has no way to say it.
    """
    if not is_vllm(spec.engine):
        told = spec.engine or "an imported container"
        raise InvalidSpec(f"KServe's LLMInferenceService starts vLLM itself; {told} is not vLLM.", field="engine")
    if spec.nodes > 1:
        raise InvalidSpec(
            "KServe ships no preset that cuts one model over several nodes; use the plain objects.", field="nodes"
        )
    if is_queued(spec):
        raise InvalidSpec(
            "KServe knows no consumer of a queue beside an engine; use the plain objects.",
            field="async_deployment_type",
        )
    objects = {item["kind"]: item for item in render(spec, site, engines, revision)}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    engine = pod["containers"][0]
    path = site.checkpoint_path(spec.checkpoint).removeprefix(site.checkpoints.mount_path.rstrip("/") + "/")
    model = f"pvc://{site.checkpoints.claim}/{site.checkpoints.sub_path}/{path}"
    service: Manifest = {
        "model": {"uri": model, "name": spec.served_model_name},
        "router": {"gateway": {}, "route": {"http": {}}},
        "template": {
            **{field: pod[field] for field in _OF_POD if field in pod},
            "containers": [{"name": "main", **{f: engine[f] for f in _OF_CONTAINER if f in engine}}],
        },
    }
    if spec.engine_args:
        service["template"]["containers"][0]["args"] = list(spec.engine_args)
    if spec.gpus > 1:
        service["parallelism"] = {"tensor": spec.gpus}
    if is_autoscaled(spec, site):
        scaled = objects["ScaledObject"]["spec"]
        service["scaling"] = {
            "minReplicas": scaled["minReplicaCount"],
            "maxReplicas": scaled["maxReplicaCount"],
            "keda": {field: scaled[field] for field in _OF_SCALING if field in scaled},
        }
    else:
        service["replicas"] = objects["Deployment"]["spec"]["replicas"]
    metadata = {
        "name": object_name(spec.name, revision),
        "namespace": site.namespace,
        "labels": labels(spec.name, revision),
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": metadata,
        "spec": service,
    }
