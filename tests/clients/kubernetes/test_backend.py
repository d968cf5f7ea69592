"""The backend alone, with the real engines' manifests: groups of pods, sleeping by KEDA, strangers, logs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.endpoints import Replica
from modelops_dagster.clients.kubernetes.api import KubernetesApi
from modelops_dagster.clients.kubernetes.backend import KubernetesBackend
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.errors import Conflict
from modelops_dagster.domain.lifecycle import Observation
from tests.domain.kubernetes.test_render import ENGINES, SITE, example, of_kind
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.stack import wait_until


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    infiniband = {"modelops.dev/node-group": "h100-infiniband"}
    with FakeCluster(Node("a", labels=infiniband), Node("b", labels=infiniband)) as cluster:
        yield cluster


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def backend(cluster: FakeCluster, tmp_path: Path, told: list[str]) -> Iterator[KubernetesBackend]:
    api = KubernetesApi(SITE.namespace, cluster.api.kubeconfig(tmp_path))
    backend = KubernetesBackend(api, SITE, lambda: ENGINES)
    backend.follow(told.append)
    yield backend
    backend.close()


def started(backend: KubernetesBackend, spec: EndpointSpec, revision: int = 1) -> Replica:
    return backend.start(spec, backend.prepare(spec, revision))


def ready(backend: KubernetesBackend, spec: EndpointSpec, replica: Replica) -> Observation:
    return wait_until(lambda: backend.observe(spec, replica, ask=True), lambda seen: seen.ready)


def test_replica_over_two_nodes_is_a_group_whose_leader_answers(
    backend: KubernetesBackend, cluster: FakeCluster, told: list[str]
):
    spec = example("two_nodes")
    replica = started(backend, spec)
    assert (replica.url, replica.start_timeout_s) == ("http://llama-405b-r1.modelops.svc:8000/v1", 3600)
    ready(backend, spec, replica)
    pods = cluster.pods(modelops_dev__endpoint="llama-405b")
    roles = {p["metadata"]["labels"]["modelops.dev/role"]: p["spec"]["nodeName"] for p in pods}
    assert roles.keys() == {"leader", "worker"}
    assert len(set(roles.values())) == 2, "each has eight GPUs of its own"
    assert "INFO: listening" in backend.tail(replica, 5)
    backend.end(replica)
    assert cluster.pods() == []
    assert cluster.objects("leaderworkersets") == []
    wait_until(lambda: cluster.objects("services") == [])
    assert [c["metadata"]["name"] for c in cluster.objects("persistentvolumeclaims")] == ["llama-405b-pvc-weights"]
    assert "llama-405b" in told, "the controller hears of it without asking"
    assert backend.observe(spec, replica, ask=True).lost
    backend.end(replica)


def test_endpoint_that_keda_put_to_zero_is_asleep(backend: KubernetesBackend, cluster: FakeCluster):
    spec = example("scale_to_zero")
    replica = started(backend, spec)
    ready(backend, spec, replica)
    cluster.scale("deployments", "rarely-used-r1", 0)
    seen = wait_until(lambda: backend.observe(spec, replica, ask=True), lambda seen: seen.asleep)
    assert (seen.alive, seen.placed, seen.ready) == (True, False, False)


def test_pods_are_told_one_by_one_where_the_site_has_calls_go_to_them(
    backend: KubernetesBackend, cluster: FakeCluster, tmp_path: Path
):
    spec = example("gpu", min_replicas=2, max_replicas=2, autoscale_config=None)
    replica = started(backend, spec)
    wait_until(lambda: [p["status"].get("phase") for p in cluster.pods()], lambda phases: phases == ["Running"] * 2)
    for number, pod in enumerate(cluster.pods(), 1):
        key = ("pods", SITE.namespace, pod["metadata"]["name"])
        cluster.api.store.update(key, {"status": {"podIP": f"10.0.0.{number}"}}, "kubelet")
    seen = wait_until(lambda: backend.observe(spec, replica, ask=True), lambda seen: seen.urls)
    assert seen.urls == ("http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1")
    meshed = SITE.model_copy(update={"pod_addresses": False})
    other = KubernetesBackend(KubernetesApi(SITE.namespace, cluster.api.kubeconfig(tmp_path)), meshed, lambda: ENGINES)
    other.follow(lambda _: None)
    assert ready(other, spec, replica).urls == ()
    other.close()


def test_strangers_are_ended_and_what_a_record_claims_stays(backend: KubernetesBackend, cluster: FakeCluster):
    spec = example("gpu")
    old, new = started(backend, spec, 1), started(backend, spec, 2)
    assert [(s.name, r.launch_id, r.generation) for s, r in backend.found()] == [("qwen-7b", new.launch_id, 2)]
    (said,) = backend.end_strangers([new])
    assert said == "Deleted Deployment qwen-7b-r1, which no record claims."
    wait_until(lambda: [d["metadata"]["name"] for d in cluster.objects("deployments")] == ["qwen-7b-r2"])
    assert backend.observe(spec, old, ask=True).lost
    assert not backend.observe(spec, new, ask=True).lost


def test_launch_of_the_same_revision_is_not_taken_for_another(backend: KubernetesBackend, cluster: FakeCluster):
    spec = example("gpu")
    first = started(backend, spec)
    backend.end(first)
    second = started(backend, spec)
    ready(backend, spec, second)
    assert backend.observe(spec, first, ask=True).lost
    backend.end(first)
    assert ready(backend, spec, second).ready, "the end of one launch is not the end of the next"
    assert len(cluster.objects("deployments")) == 1


def test_log_is_read_on_from_where_one_was(backend: KubernetesBackend, cluster: FakeCluster):
    spec = example("gpu")
    ready(backend, spec, started(backend, spec))
    (pod,) = cluster.pods()
    key = (pod["metadata"]["name"], False)
    cluster.api.logs[key] = "2026-01-01T00:00:01.000001Z one\n2026-01-01T00:00:02Z two\n"
    first = backend.read_log("qwen-7b", tail=1)
    assert first.text == "two\n"
    cluster.api.logs[key] += "2026-01-01T00:00:02.5Z three\n2026-01-01T00:00:03Z\n"
    rest = backend.read_log("qwen-7b", tail=1, launch_id=first.launch_id, offset=first.offset)
    assert rest.text == "three\n\n"
    again = backend.read_log("qwen-7b", tail=1, launch_id=rest.launch_id, offset=rest.offset)
    assert (again.text, again.offset) == ("", rest.offset)
    assert backend.read_log("nobody", tail=9).launch_id is None


def test_field_that_somebody_else_owns_is_a_conflict_and_not_taken(backend: KubernetesBackend, cluster: FakeCluster):
    spec = example("gpu")
    replica = started(backend, spec)
    ready(backend, spec, replica)
    changes = {"spec": {"progressDeadlineSeconds": 5}}
    cluster.api.store.update(("deployments", "modelops", "qwen-7b-r1"), changes, "somebody")
    changed = spec.model_copy(update={"max_replicas": 1, "usd_per_hour": 9.0})
    with pytest.raises(Conflict, match=r'conflict with "somebody": \.spec\.progressDeadlineSeconds'):
        backend.observe(changed, replica, ask=True)
    assert of_kind(cluster.objects("deployments"), "Deployment")["spec"]["progressDeadlineSeconds"] == 5
