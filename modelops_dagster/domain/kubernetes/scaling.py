"""The KEDA ScaledObject of an endpoint: one trigger for every metric its spec names."""

from collections.abc import Iterator
from typing import Any

from modelops_dagster.domain.endpoints import AutoscaleConfig, AutoscaleTarget, EndpointSpec
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import object_name, slug
from modelops_dagster.domain.kubernetes.pods import CONTAINER, is_vllm
from modelops_dagster.domain.kubernetes.queues import is_queued, queue_trigger
from modelops_dagster.domain.kubernetes.site import KedaSite, Site

Manifest = dict[str, Any]
# What is kept per replica where a spec wants several and names no metric: calls at once, as vLLM batches them well.
DEFAULT_TARGETS = AutoscaleConfig(targets=(AutoscaleTarget(metric="concurrency", target=32),))
QUEUED_TARGETS = AutoscaleConfig(targets=(AutoscaleTarget(metric="queue_length", target=32),))
_NEVER = "1000000000"  # a threshold that asks for no second replica: the trigger only wakes
_OF_RESOURCES = {"cpu": "cpu", "ram": "memory"}


def is_autoscaled(spec: EndpointSpec, site: Site) -> bool:
    """Whether an autoscaler owns the number of replicas; then nobody else may set it."""
    if site.keda is None:
        return False
    return (
        sleeps_by_itself(spec, site)
        or spec.autoscale_config is not None
        or spec.max_replicas > max(1, spec.min_replicas)
    )


def sleeps_by_itself(spec: EndpointSpec, site: Site) -> bool:
    """Whether KEDA takes the last replica away and brings it back; otherwise the controller does."""
    # a queue is there when no replica is, so its length wakes an endpoint
    return spec.scale_to_zero and site.keda is not None and (site.keda.demand_query is not None or is_queued(spec))


def scaled_object(spec: EndpointSpec, site: Site, revision: int, target: Manifest, start_s: float) -> Manifest:
    """The autoscaler of one revision.

    Args:
        target: apiVersion and kind of what is scaled.
        start_s: longest from a new replica to its first answer.

    Raises:
        InvalidSpec: a metric cannot be read on this cluster.
    """
    keda = site.keda or KedaSite()
    name = object_name(spec.name, revision)
    config = spec.autoscale_config or (QUEUED_TARGETS if is_queued(spec) else DEFAULT_TARGETS)
    one_at_a_time = [{"type": "Pods", "value": 1, "periodSeconds": keda.step_seconds}]
    scaled: Manifest = {
        "scaleTargetRef": {**target, "name": name},
        "pollingInterval": keda.polling_interval_s,
        "minReplicaCount": max(1, spec.min_replicas),
        "maxReplicaCount": max(spec.max_replicas, spec.min_replicas, 1),
        "fallback": {
            "failureThreshold": 3,
            "replicas": max(1, spec.min_replicas),
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {
            "horizontalPodAutoscalerConfig": {
                "behavior": {
                    "scaleUp": {"stabilizationWindowSeconds": 0, "policies": one_at_a_time},
                    "scaleDown": {"stabilizationWindowSeconds": 300, "policies": one_at_a_time},
                }
            }
        },
        "triggers": list(_triggers(spec, site, keda, config, revision)),
    }
    if sleeps_by_itself(spec, site):
        scaled |= {
            "idleReplicaCount": 0,
            "cooldownPeriod": config.cooldown_period,
            "initialCooldownPeriod": int(start_s) + config.cooldown_period,
        }
        if spec.min_replicas == 0:
            scaled["minReplicaCount"] = 1
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": scaled}


def _triggers(
    spec: EndpointSpec, site: Site, keda: KedaSite, config: AutoscaleConfig, revision: int
) -> Iterator[Manifest]:
    if spec.scale_to_zero and keda.demand_query is not None:
        query = keda.demand_query.replace("{endpoint}", slug(spec.name))
        yield _prometheus("demand", query, _NEVER, _url(keda, "scale_to_zero"), "AverageValue", activation="0")
    if spec.scale_to_zero and is_queued(spec) and all(t.metric != "queue_length" for t in config.targets):
        yield queue_trigger(spec, site, revision, float(_NEVER))
    for number, target in enumerate(config.targets):
        if target.metric == "queue_length":
            yield queue_trigger(spec, site, revision, target.target)
            continue
        if target.metric in _OF_RESOURCES:
            metadata = {"value": f"{target.target:g}", "containerName": CONTAINER}
            yield {"type": _OF_RESOURCES[target.metric], "metricType": "Utilization", "metadata": metadata}
            continue
        query, threshold, kind = _query(target, spec, site, object_name(spec.name, revision))
        title = target.metric if target.percentile is None else f"{target.metric}-p{target.percentile}"
        url = _url(keda, f"autoscale_config.targets.{number}")
        yield _prometheus(title, query, threshold, url, kind)


def _url(keda: KedaSite, field: str) -> str:
    if keda.prometheus_url is None:
        raise InvalidSpec(
            f"{field} needs Prometheus, and this site names none; set keda.prometheus_url in the site file, or follow "
            "cpu or ram.",
            field=field,
        )
    return keda.prometheus_url


def _prometheus(title: str, query: str, threshold: str, url: str, kind: str, activation: str | None = None) -> Manifest:
    metadata = {"serverAddress": url, "query": query, "threshold": threshold}
    if activation is not None:
        metadata["activationThreshold"] = activation
    return {"type": "prometheus", "name": title, "metricType": kind, "metadata": metadata}


def _query(target: AutoscaleTarget, spec: EndpointSpec, site: Site, name: str) -> tuple[str, str, str]:
    """(PromQL, threshold, kind) of one metric: AverageValue is divided by the replicas, Value is not.

    Metrics of vLLM 0.32 and of DCGM's exporter; the label is the pod's own, as a PodMonitor hands it on.
    """
    pods = f'modelops_dev_endpoint="{slug(spec.name)}"'
    gpus = f'exported_namespace="{site.namespace}",exported_pod=~"{name}-.*"'
    threshold = f"{target.target:g}"
    if target.metric == "gpu":
        return f"avg(DCGM_FI_DEV_GPU_UTIL{{{gpus}}})", threshold, "Value"
    if target.metric == "gram" and not is_vllm(spec.engine):
        used, free = f"DCGM_FI_DEV_FB_USED{{{gpus}}}", f"DCGM_FI_DEV_FB_FREE{{{gpus}}}"
        return f"100 * sum({used}) / (sum({used}) + sum({free}))", threshold, "Value"
    if not is_vllm(spec.engine):
        raise InvalidSpec(
            f"{target.metric} is read from vLLM's metrics, which {spec.engine or 'an imported container'} has not; "
            "follow cpu, ram, gpu or gram.",
            field="autoscale_config.targets",
        )
    if target.metric == "gram":
        # vLLM takes its share of the memory at once and for good: what fills and empties is the KV cache inside it
        return f"100 * avg(vllm:kv_cache_usage_perc{{{pods}}})", threshold, "Value"
    if target.metric == "latency":
        quantile = (target.percentile or 95) / 100
        rate = f"sum by (le) (rate(vllm:e2e_request_latency_seconds_bucket{{{pods}}}[2m]))"
        return f"histogram_quantile({quantile:g}, {rate})", f"{target.target / 1000:g}", "Value"
    if target.metric == "throughput":
        calls = f'http_requests_total{{{pods},handler=~"/v1/(chat/)?completions"}}'
        return f"sum(rate({calls}[1m]))", threshold, "AverageValue"
    busy = f"sum(vllm:num_requests_running{{{pods}}}) + sum(vllm:num_requests_waiting{{{pods}}})"
    return busy, threshold, "AverageValue"
