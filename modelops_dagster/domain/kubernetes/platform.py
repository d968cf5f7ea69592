"""What a cluster is given once, by whoever administers it: the order in which pods yield, and Kueue's queues."""

from typing import Any

from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.kubernetes.names import MANAGED_BY_LABEL, MANAGER
from modelops_dagster.domain.kubernetes.site import Site

Manifest = dict[str, Any]
PRIORITIES = {Priority.PRODUCTION: 100_000, Priority.PREVIEW: 50_000, Priority.RESEARCH: 1_000}
_MEANING = {
    Priority.PRODUCTION: "endpoints in production; may evict previews and research",
    Priority.PREVIEW: "endpoints of new models; may evict research",
    Priority.RESEARCH: "research; evicts nobody, and yields to endpoints",
}


def platform_objects(site: Site) -> list[Manifest]:
    """The PriorityClasses, and where the site has Kueue its WorkloadPriorityClasses and LocalQueues."""
    rendered = [_priority_class(site, p, value) for p, value in PRIORITIES.items()]
    if site.kueue is None:
        return rendered
    for priority, value in PRIORITIES.items():
        kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "WorkloadPriorityClass"}
        named = {"metadata": {"name": site.priority_classes[priority], "labels": {MANAGED_BY_LABEL: MANAGER}}}
        rendered.append({**kind, **named, "value": value, "description": _MEANING[priority]})
    for queue in (site.kueue.serving_queue, site.kueue.research_queue):
        metadata = {"name": queue, "namespace": site.namespace, "labels": {MANAGED_BY_LABEL: MANAGER}}
        kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "LocalQueue"}
        rendered.append({**kind, "metadata": metadata, "spec": {"clusterQueue": queue}})
    return rendered


def _priority_class(site: Site, priority: Priority, value: int) -> Manifest:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": site.priority_classes[priority], "labels": {MANAGED_BY_LABEL: MANAGER}},
        "value": value,
        "globalDefault": False,
        "preemptionPolicy": "Never" if priority is Priority.RESEARCH else "PreemptLowerPriority",
        "description": _MEANING[priority],
    }
