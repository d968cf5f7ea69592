"""A real cluster, asked and handled as `FakeCluster` is, so that the same tests run on both."""

import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from kubernetes import config
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient

from tests.fakes.cluster.containers import Containers, Logs
from tests.fakes.cluster.kubelet import Node
from tests.fakes.cluster.kubelet_server import KubeletServer
from tests.fakes.cluster.quotas import GPU
from tests.fakes.cluster.server import KINDS
from tests.fakes.cluster.store import Manifest
from tests.fakes.stack import wait_until

BASE = Path(__file__).resolve().parents[3] / "deploy" / "kubernetes" / "base"
CONTROLLER = "modelops-controller"
_TICK_S = 0.1
_BEAT_S = 3.0
_STRATEGIC = "application/strategic-merge-patch+json"


class RealCluster:
    """The cluster of a kubeconfig, whose namespace it prepares; use as a context manager.

    Args:
        kubeconfig: of somebody who may do everything.
        nodes: of a cluster that is a control plane alone: these are made, and their containers are scripted.
    """

    def __init__(self, kubeconfig: Path, *nodes: Node, namespace: str = "modelops") -> None:
        self.namespace = namespace
        self._kubeconfig = kubeconfig
        self._client = DynamicClient(config.new_client_from_config(str(kubeconfig)))
        self._kubelet = ScriptedKubelet(self._client, nodes) if nodes else None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._prepare()
        if self._kubelet is not None:
            self._stack.enter_context(self._kubelet)
        return self

    def __exit__(self, *_: object) -> None:
        if self._kubelet is not None:
            claims = self._resource("PersistentVolumeClaim")
            for claim in self.objects("persistentvolumeclaims"):
                claims.delete(name=claim["metadata"]["name"], namespace=self.namespace)
            wait_until(lambda: self.objects("persistentvolumeclaims"), lambda left: not left, 60)
        self._stack.close()

    def _prepare(self) -> None:
        """What deploy/kubernetes gives a namespace before any endpoint: its security level, classes, the Role."""
        wanted = [item for name in ("namespace", "priority-classes", "controller") for item in _documents(name)]
        if self._kubelet is not None:
            wanted += _documents("volumes")
        for item in wanted:
            if item["kind"] not in ("Deployment", "Service"):
                self.apply(item)

    def apply(self, item: Manifest) -> None:
        resource = self._client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
        where = {"namespace": self.namespace} if resource.namespaced else {}
        resource.server_side_apply(body=item, field_manager="kubectl", force_conflicts=True, **where)

    def controller_kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig with the token of the controller's own ServiceAccount: it may do what its Role says."""
        command = ["kubectl", "--kubeconfig", str(self._kubeconfig), "-n", self.namespace]
        made = subprocess.run(
            [*command, "create", "token", CONTROLLER, "--duration=4h"], capture_output=True, text=True, check=True
        )
        shown = [*command, "config", "view", "--raw", "--minify", "--flatten", "-o", "yaml"]
        document = yaml.safe_load(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
        document["users"][0]["user"] = {"token": made.stdout.strip()}
        path = folder / "controller.kubeconfig"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    # what a test asks and does

    @property
    def nodes(self) -> dict[str, Node]:
        return self._scripted().nodes

    @property
    def missing_images(self) -> set[str]:
        return self._scripted().containers.missing_images

    @property
    def muted(self) -> set[str]:
        return self._scripted().containers.muted

    @property
    def evicted(self) -> set[str]:
        return self._scripted().containers.evicted

    def _scripted(self) -> "ScriptedKubelet":
        assert self._kubelet is not None, "the nodes of this cluster are not ours"
        return self._kubelet

    def pods(self, **labels: str) -> list[Manifest]:
        selector = ",".join(f"{name.replace('_dev__', '.dev/')}={value}" for name, value in labels.items())
        return self._listed("Pod", label_selector=selector)

    def objects(self, plural: str) -> list[Manifest]:
        return self._listed(KINDS[plural])

    def evict(self, name: str) -> None:
        """Take a pod away, as a drain does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        self._resource("Pod").eviction.create(body=eviction, name=name, namespace=self.namespace)

    def scale(self, plural: str, name: str, replicas: int) -> None:
        """What an autoscaler does."""
        self._resource(KINDS[plural]).scale.patch(
            body={"spec": {"replicas": replicas}},
            name=name,
            namespace=self.namespace,
            content_type="application/merge-patch+json",
            field_manager="keda-operator",
        )

    def owns(self, manager: str, plural: str, name: str, path: tuple[str, ...]) -> bool:
        """Whether the field of an object is this manager's."""
        (found,) = [item for item in self.objects(plural) if item["metadata"]["name"] == name]
        for entry in found["metadata"]["managedFields"]:
            fields: Any = entry["fieldsV1"] if entry["manager"] == manager else {}
            for step in path:
                fields = fields.get(f"f:{step}") if fields is not None else None
            if fields is not None:
                return True
        return False

    def remove(self, plural: str, name: str) -> None:
        """What somebody does who deletes an object, and what it owns with it."""
        self._resource(KINDS[plural]).delete(name=name, namespace=self.namespace)

    def limit(self, quota: str, hard: dict[str, int]) -> None:
        """Give the namespace a ResourceQuota, or another amount of it."""
        spec = {"hard": {resource: str(amount) for resource, amount in hard.items()}}
        named = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": quota}}
        self.apply({**named, "spec": spec})
        wait_until(lambda: self._listed("ResourceQuota")[0].get("status", {}).get("hard") == spec["hard"], timeout_s=30)

    def unlimit(self, quota: str) -> None:
        """Take a ResourceQuota away again."""
        self._resource("ResourceQuota").delete(name=quota, namespace=self.namespace)

    def _resource(self, kind: str) -> Any:
        return next(r for r in self._client.resources.search(kind=kind) if not r.kind.endswith("List"))

    def _listed(self, kind: str, **query: str) -> list[Manifest]:
        found: list[Manifest] = self._resource(kind).get(namespace=self.namespace, **query).to_dict()["items"]
        return found


def real_cluster(options: pytest.Config) -> RealCluster:
    """The one that pytest was given."""
    nodes = (Node("node-a"), Node("node-b")) if options.getoption("--scripted-nodes") else ()
    return RealCluster(options.getoption("--kubeconfig"), *nodes)


class ScriptedKubelet:
    """Nodes of a control plane that has none; use as a context manager. No container runs: see `Containers`.

    Nodes may be added to `nodes` and taken out while it runs, and be set to not ready.
    """

    def __init__(self, client: DynamicClient, nodes: tuple[Node, ...]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.logs: Logs = {}
        self.containers = Containers(self._has_secret, self.logs)
        self._server = KubeletServer(self.logs)
        self._client = client
        self._pods: dict[str, Manifest] = {}
        self._known: dict[str, bool] = {}  # nodes there are, and whether they were told to be ready
        self._volumes: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._follow, self._loop)]

    def __enter__(self) -> Self:
        self._server.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[1].join(30)
        for name in list(self._known):
            self._gone("Node", name)
        for name in self._volumes:
            self._gone("PersistentVolume", name)
        self.containers.programs.close()
        self._server.__exit__()

    def _follow(self) -> None:
        """Keep the pods that are on a node, as the API server tells of them."""
        while not self._stop.is_set():
            for event in self._api("Pod").watch(timeout=60):
                pod = event["raw_object"]
                if event["type"] == "DELETED":
                    self._pods.pop(pod["metadata"]["uid"], None)
                    self.containers.forget(pod["metadata"]["uid"])
                elif pod["spec"].get("nodeName"):
                    self._pods[pod["metadata"]["uid"]] = pod
                if self._stop.is_set():
                    return

    def _loop(self) -> None:
        beaten = 0.0
        while not self._stop.wait(_TICK_S):
            try:
                self._keep_nodes()
                if time.monotonic() - beaten > _BEAT_S:
                    beaten = time.monotonic()
                    self._beat()
                for pod in list(self._pods.values()):
                    self._drive(pod)
            except ApiException as error:
                if error.status not in (404, 409):  # it changed or went meanwhile: the next round sees it
                    raise

    def _drive(self, pod: Manifest) -> None:
        node, metadata = self.nodes.get(pod["spec"]["nodeName"]), pod["metadata"]
        if node is None or not node.ready:
            return  # who would do something there?
        if "deletionTimestamp" in metadata:
            self._pods.pop(metadata["uid"], None)
            self._gone("Pod", metadata["name"], metadata["namespace"], metadata["uid"])
            return
        status = self.containers.step(pod)
        if status is not None:
            answer = self._api("Pod").status.patch(
                body={"metadata": {"uid": metadata["uid"]}, "status": status},
                name=metadata["name"],
                namespace=metadata["namespace"],
                content_type=_STRATEGIC,
                field_manager="kubelet",
            )
            self._pods[metadata["uid"]] = answer.to_dict()

    def _keep_nodes(self) -> None:
        for name in [name for name in self._known if name not in self.nodes]:
            self._gone("Node", name)
            del self._known[name]
        for node in list(self.nodes.values()):
            if node.name not in self._known:
                self._apply(
                    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": node.labels}}
                )
                self._bind_volumes()
            if node.ready and not self._known.get(node.name):
                self._say_of(node)
            self._known[node.name] = node.ready  # one that is not ready says nothing: the cluster finds out

    def _say_of(self, node: Node) -> None:
        size = {"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti", GPU: str(node.gpus)}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        status = {
            "capacity": size,
            "allocatable": size,
            "conditions": [ready],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._server.port}},
        }
        self._api("Node").status.patch(body={"status": status}, name=node.name, content_type=_STRATEGIC)

    def _beat(self) -> None:
        """Say that the nodes live, and how they are: what the cluster made of their silence is taken back by that."""
        for node in [n for n in self.nodes.values() if n.ready and n.name in self._known]:
            at = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
            spec = {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": at}
            metadata = {"name": node.name, "namespace": "kube-node-lease"}
            self._apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
            self._say_of(node)
        self._bind_volumes()

    def _bind_volumes(self) -> None:
        """A volume for every claim that waits for one."""
        for claim in self._api("PersistentVolumeClaim").get().to_dict()["items"]:
            metadata, spec = claim["metadata"], claim["spec"]
            if claim["status"].get("phase") != "Pending":
                continue
            volume = {
                "capacity": spec["resources"]["requests"],
                "accessModes": spec["accessModes"],
                "storageClassName": spec.get("storageClassName", ""),
                "persistentVolumeReclaimPolicy": "Delete",
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]},
            }
            name = f"pv-{metadata['uid']}"
            self._volumes.add(name)
            named = {"kind": "PersistentVolume", "metadata": {"name": name}}
            self._apply({"apiVersion": "v1", **named, "spec": volume})

    def _has_secret(self, namespace: str, name: str) -> bool:
        try:
            self._api("Secret").get(name=name, namespace=namespace)
        except ApiException as error:
            if error.status == 404:
                return False
            raise
        return True

    def _api(self, kind: str) -> Any:
        version = {"Lease": "coordination.k8s.io/v1"}.get(kind, "v1")
        return self._client.resources.get(api_version=version, kind=kind)

    def _apply(self, item: Manifest) -> None:
        where = {"namespace": item["metadata"]["namespace"]} if "namespace" in item["metadata"] else {}
        self._api(item["kind"]).server_side_apply(body=item, field_manager="kubelet", force_conflicts=True, **where)

    def _gone(self, kind: str, name: str, namespace: str | None = None, uid: str | None = None) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._api(kind).delete(name=name, namespace=namespace, body=options)
        except ApiException as error:
            if error.status != 404:
                raise


def _documents(name: str) -> list[Manifest]:
    return [item for item in yaml.safe_load_all((BASE / f"{name}.yaml").read_text()) if item]
