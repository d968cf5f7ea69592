"""What makes a cluster of an API server: pods for workloads, nodes for pods, and containers that are scripted."""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.fakes.cluster.containers import OVER, Containers, has_failed, is_ready
from tests.fakes.cluster.jobs import Jobs
from tests.fakes.cluster.programs import time_of_now
from tests.fakes.cluster.quotas import GPU, excess, gpus_of
from tests.fakes.cluster.server import FakeApiServer
from tests.fakes.cluster.store import Key, Manifest

TICK_S = 0.02
FINALIZER_S = 0.3  # what KEDA takes to let a ScaledObject go
TOLERATED_S = 0.3  # between a node that says nothing and the end of its pods; 300 s on a real cluster


@dataclass
class Node:
    """A machine. `ready` and `cordoned` are the knobs: a node that is not ready loses its pods."""

    name: str
    gpus: int = 8
    labels: dict[str, str] = field(default_factory=dict)
    ready: bool = True
    cordoned: bool = False  # takes no new pods


class FakeCluster:
    """An API server, nodes, and what keeps pods as workloads want them; use as a context manager."""

    def __init__(self, *nodes: Node) -> None:
        self.api = FakeApiServer()
        self.nodes = {node.name: node for node in (nodes or (Node("node-a"), Node("node-b")))}
        self._containers = Containers(self._has_secret, self.api.logs)
        self.missing_images, self.muted = self._containers.missing_images, self._containers.muted
        self.evicted, self.programs = self._containers.evicted, self._containers.programs
        self.api.admit = self._refusal
        self.jobs = Jobs(self.api.store, self._delete, self._refusal)
        self._quotas: dict[str, dict[str, int]] = {}
        self._finalized: dict[Key, float] = {}
        self._lost: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Self:
        self.api.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self.programs.close()
        self.api.__exit__()

    # what a test asks and does

    def pods(self, **labels: str) -> list[Manifest]:
        return self.api.store.listed("pods", "", {k.replace("_dev__", ".dev/"): v for k, v in labels.items()})

    def objects(self, plural: str) -> list[Manifest]:
        return self.api.store.listed(plural, "", {})

    def evict(self, name: str, reason: str = "EvictionByEvictionAPI") -> None:
        """Take a pod away, as a drain or the scheduler does; its workload makes another."""
        with self.api.store.lock:
            pod = next(p for p in self.pods() if p["metadata"]["name"] == name)
            self._disrupt(pod, reason)

    def scale(self, plural: str, name: str, replicas: int) -> None:
        """What an autoscaler does."""
        key = next(k for k in self.api.store.objects if k[0] == plural and k[2] == name)
        self.api.store.update(key, {"spec": {"replicas": replicas}}, "keda-operator")

    def owns(self, manager: str, plural: str, name: str, path: tuple[str, ...]) -> bool:
        """Whether the field of an object is this manager's."""
        key = next(k for k in self.api.store.objects if k[0] == plural and k[2] == name)
        return path in self.api.store.owners_of(key).get(manager, set())

    def remove(self, plural: str, name: str) -> None:
        """What somebody does who deletes an object, and what it owns with it."""
        self.api.store.remove(next(k for k in self.api.store.objects if k[0] == plural and k[2] == name))

    def limit(self, quota: str, hard: dict[str, int]) -> None:
        """Give the namespace a ResourceQuota of `pods` or `requests.nvidia.com/gpu`, or another amount of it."""
        self._quotas[quota] = hard

    def unlimit(self, quota: str) -> None:
        """Take a ResourceQuota away again."""
        del self._quotas[quota]

    def controller_kubeconfig(self, folder: Path) -> Path:
        return self.api.kubeconfig(folder)

    # the loop

    def _loop(self) -> None:
        while not self._stop.wait(TICK_S):
            with self.api.store.lock:
                self._tick()

    def _tick(self) -> None:
        self._collect_garbage()
        for plural in ("deployments", "leaderworkersets"):
            for workload in self.api.store.listed(plural, "", {}):
                self._reconcile(plural, workload)
        for job in self.api.store.listed("jobs", "", {}):
            self.jobs.step(job, self._pods_of(job))
        self._lose_nodes()
        for pod in self.pods():
            self._drive(pod)

    def _collect_garbage(self) -> None:
        """What has lost its owner goes; an owner that is deleted in the foreground waits for those that hold it up."""
        store = self.api.store
        stored = dict(store.objects)
        ending = {s.item["metadata"]["uid"]: "deletionTimestamp" in s.item["metadata"] for s in stored.values()}
        for key, item in ((key, s.item) for key, s in stored.items()):
            owners = item["metadata"].get("ownerReferences") or []
            orphaned = bool(owners) and not any(owner["uid"] in ending for owner in owners)
            holds_up = any(owner.get("blockOwnerDeletion") and ending.get(owner["uid"]) for owner in owners)
            if key[0] == "pods":
                if orphaned:
                    self._delete(item)
            elif ending[item["metadata"]["uid"]]:
                if not self._held_up(item) and self._finalized.get(key, 0.0) < time.monotonic():
                    store.remove(key)
            elif orphaned or holds_up:
                self._end(key)

    def _end(self, key: Key) -> None:
        """An object goes at once, unless its operator looks at it first."""
        if key[0] == "scaledobjects":
            self._finalized[key] = time.monotonic() + FINALIZER_S
            self.api.store.update(key, {"metadata": {"deletionTimestamp": time_of_now()}}, "server")
        else:
            self.api.store.remove(key)

    def _held_up(self, owner: Manifest) -> bool:
        uid = owner["metadata"]["uid"]
        references = (s.item["metadata"].get("ownerReferences") or [] for s in self.api.store.objects.values())
        return any(o["uid"] == uid and o.get("blockOwnerDeletion") for found in references for o in found)

    def _pods_of(self, workload: Manifest) -> list[Manifest]:
        uid = workload["metadata"]["uid"]
        return [p for p in self.pods() if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences") or [])]

    def _reconcile(self, plural: str, workload: Manifest) -> None:
        pods = self._pods_of(workload)
        if "deletionTimestamp" in workload["metadata"]:
            for pod in pods:
                self._delete(pod)
            return
        templates = list(self._templates(plural, workload))
        wanted = templates * int(workload["spec"].get("replicas", 1))
        alive = [p for p in pods if "deletionTimestamp" not in p["metadata"] and not has_failed(p)]
        generation = hashlib.sha256(json.dumps(templates, sort_keys=True).encode()).hexdigest()
        outdated = [p for p in alive if wanted and p["metadata"]["annotations"]["template"] != generation]
        if plural == "deployments" and all(is_ready(p) for p in outdated):
            # one after the other: maxSurge 0, maxUnavailable 1
            outdated = outdated[: sum(map(is_ready, alive)) == len(wanted)]
        for pod in outdated:
            self._delete(pod)
        conditions = []
        if len(alive) < len(wanted):
            refusal = self._refusal(wanted[len(alive)]["spec"])
            if refusal is None:
                self._make(workload, wanted[len(alive)], generation)
            elif plural == "deployments":  # other workloads tell it in events alone
                why = {"reason": "FailedCreate", "message": f'pods "{workload["metadata"]["name"]}-x" is {refusal}'}
                conditions = [{"type": "ReplicaFailure", "status": "True", **why}]
        for pod in alive[len(wanted) :]:
            self._delete(pod)
        ready = sum(1 for p in alive if is_ready(p))
        status = {"replicas": len(alive), "readyReplicas": ready, "availableReplicas": ready, "conditions": conditions}
        self.api.store.update(_key(plural, workload), {"status": status}, "controller-manager")

    def _templates(self, plural: str, workload: Manifest) -> Iterator[Manifest]:
        if plural == "deployments":
            yield workload["spec"]["template"]
            return
        group = workload["spec"]["leaderWorkerTemplate"]
        yield group["leaderTemplate"]
        for _ in range(group["size"] - 1):
            yield group["workerTemplate"]

    def _make(self, workload: Manifest, template: Manifest, generation: str) -> None:
        metadata = template["metadata"]
        owner = {key: workload[key] for key in ("apiVersion", "kind")}
        owner |= {key: workload["metadata"][key] for key in ("name", "uid")} | {"blockOwnerDeletion": True}
        name = f"{workload['metadata']['name']}-{uuid.uuid4().hex[:8]}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": metadata["labels"],
                "annotations": {**metadata["annotations"], "template": generation},
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self.api.store.create(("pods", workload["metadata"]["namespace"], name), pod)

    def _delete(self, pod: Manifest) -> None:
        if "deletionTimestamp" not in pod["metadata"]:
            self.api.store.update(_key("pods", pod), {"metadata": {"deletionTimestamp": time_of_now()}}, "server")

    def _disrupt(self, pod: Manifest, reason: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": reason}
        conditions = [*(pod["status"].get("conditions") or []), condition]
        self.api.store.update(_key("pods", pod), {"status": {"conditions": conditions}}, "scheduler")
        self._delete(pod)

    def _lose_nodes(self) -> None:
        """Pods of a node that says nothing count as not ready, then as taken away; who knows whether they still run?"""
        for pod in self.pods():
            node = self.nodes.get(pod["spec"].get("nodeName", ""))
            if node is None and "nodeName" in pod["spec"]:
                self.api.store.remove(_key("pods", pod))
            elif node is not None and not node.ready:
                self._lose(pod)

    def _lose(self, pod: Manifest) -> None:
        uid = pod["metadata"]["uid"]
        if is_ready(pod):
            conditions = [c | {"status": "False"} if c["type"] == "Ready" else c for c in pod["status"]["conditions"]]
            self.api.store.update(_key("pods", pod), {"status": {"conditions": conditions}}, "server")
            self._lost[uid] = time.monotonic() + TOLERATED_S
        elif "deletionTimestamp" not in pod["metadata"] and self._lost.get(uid, 0.0) < time.monotonic():
            self._disrupt(pod, "DeletionByTaintManager")

    def _drive(self, pod: Manifest) -> None:
        """One step of one pod."""
        key = _key("pods", pod)
        node = self.nodes.get(pod["spec"].get("nodeName", ""))
        if node is not None and not node.ready:
            return  # who would do something there?
        if "deletionTimestamp" in pod["metadata"]:
            gone, status = self._containers.end(pod)
            if gone:
                self.api.store.remove(key)
            elif status is not None:
                self.api.store.update(key, {"status": status}, "kubelet")
            return
        if "nodeName" not in pod["spec"]:
            self._place(pod)
            return
        status = self._containers.step(pod)
        if status is not None:
            self.api.store.update(key, {"status": status}, "kubelet")

    def _place(self, pod: Manifest) -> None:
        needs = gpus_of(pod["spec"])
        fits = [n for n in self.nodes.values() if n.ready and not n.cordoned and _wants(pod, n)]
        free = next((n for n in fits if self._free(n) >= needs), None)
        if free is not None:
            scheduled = [{"type": "PodScheduled", "status": "True"}]
            self.api.store.update(
                _key("pods", pod), {"spec": {"nodeName": free.name}, "status": {"conditions": scheduled}}, "scheduler"
            )
            return
        for node in fits:
            for other in self._lower(pod, node):
                self._disrupt(other, "PreemptionByScheduler")
                return
        lacking = len(fits)
        parts = [f"{lacking} Insufficient {GPU}"] if lacking else []
        if len(self.nodes) > lacking:
            parts.append(f"{len(self.nodes) - lacking} node(s) didn't match Pod's node affinity/selector")
        message = f"0/{len(self.nodes)} nodes are available: {', '.join(parts)}."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.api.store.update(_key("pods", pod), {"status": {"conditions": [condition]}}, "scheduler")

    def _refusal(self, pod_spec: Manifest) -> str | None:
        """Why no quota admits one more such pod."""
        return excess(self._quotas, pod_spec, self.pods())

    def _has_secret(self, namespace: str, name: str) -> bool:
        return ("secrets", namespace, name) in self.api.store.objects

    def _free(self, node: Node) -> int:
        used = 0
        for pod in self.pods():
            if pod["spec"].get("nodeName") == node.name and pod["status"].get("phase") not in OVER:
                used += gpus_of(pod["spec"])
        return node.gpus - used

    def _lower(self, pod: Manifest, node: Node) -> list[Manifest]:
        order = {"modelops-research": 1, "modelops-preview": 2, "modelops-production": 3}
        mine = order.get(pod["spec"].get("priorityClassName", ""), 0)
        return [
            other
            for other in self.pods()
            if other["spec"].get("nodeName") == node.name
            and "deletionTimestamp" not in other["metadata"]
            and order.get(other["spec"].get("priorityClassName", ""), 0) < mine
        ]


def _wants(pod: Manifest, node: Node) -> bool:
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or []
    wanted = [e for term in terms for e in term.get("matchExpressions") or []]
    return all(node.labels.get(e["key"]) in e["values"] for e in wanted)


def _key(plural: str, item: Manifest) -> Key:
    return (plural, item["metadata"]["namespace"], item["metadata"]["name"])
