"""Pods that a cluster takes away: for whom, and that it is no failure of what ran in them."""

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]
PREEMPTED = "PreemptionByScheduler"
DELETED = "somebody who deleted it"
_FOR = {
    PREEMPTED: "a workload of higher priority",
    "EvictionByEvictionAPI": "a drain of its node",
    "DeletionByTaintManager": "the loss of its node",
    "DeletionByPodGC": "the loss of its node",
    "TerminationByKubelet": "its node, which shut down or ran short of memory or disk",
}
# `status.reason` of a pod that failed without its container being at fault
_ENDED_BY_NODE = frozenset({"Evicted", "Preempting", "Preempted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated"})


def disruption(pod: Manifest) -> str | None:
    """The reason of its `DisruptionTarget` condition; None: the cluster does not take it away."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((str(c.get("reason")) for c in conditions if c["type"] == "DisruptionTarget"), None)


def taken_for(pod: Manifest | None) -> str | None:
    """For whom or what the cluster took the pod away, as half a sentence; None: it did not.

    Args:
        pod: None: it is not there any more.
    """
    if pod is None:
        return DELETED
    why = disruption(pod)
    if why is not None:
        return _FOR.get(why, why)
    status = pod.get("status") or {}
    # a pod that its node did not admit has no container, and a reason such as OutOfnvidia.com/gpu
    unadmitted = status.get("phase") == "Failed" and not status.get("containerStatuses")
    if status.get("reason") in _ENDED_BY_NODE or (unadmitted and status.get("reason") != "DeadlineExceeded"):
        told = str(status.get("message") or status.get("reason") or "it did not take it").rstrip(". ")
        return f"its node ({told})"
    return DELETED if "deletionTimestamp" in pod["metadata"] else None
