"""The controller on a cluster that has troubles of its own: no room, no image, lost nodes, autoscalers.

The cluster is the fake one; `pytest --kubeconfig FILE --scripted-nodes` uses a real control plane besides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.domain.endpoints import EndpointState
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.cluster.real import RealCluster
from tests.fakes.cluster.stack import WAIT_S, AnyCluster, ClusterStack, gone, told, until, wait_a_moment
from tests.fakes.stack import wait_until

LOST_S = 420.0  # what a cluster gives a node that says nothing, before it makes its pods anew
CONTAINER = {
    "deployment": {"type": "container", "image": "acme/server:1"},
    "ports": {"http": {"port": 8200}},
    "healthcheck": {"path": "/health", "port": 8200, "periodSeconds": 1},
    **dict.fromkeys(("checkpoint", "checkpoint_digest", "engine"), ""),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test on each cluster; the real one only where it was given and its nodes are ours to trouble."""
    options = metafunc.config
    given = options.getoption("--kubeconfig") is not None and options.getoption("--scripted-nodes")
    metafunc.parametrize("cluster", ["fake", *(["real"] if given else [])], indirect=True, scope="module")


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[AnyCluster]:
    nodes = (Node("a", gpus=8), Node("b", gpus=8))
    real = request.param == "real"
    with RealCluster(request.config.getoption("--kubeconfig"), *nodes) if real else FakeCluster(*nodes) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stack(cluster: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    folder = tmp_path_factory.mktemp("cluster")
    stack = ClusterStack(folder, cluster.controller_kubeconfig(folder))
    stack.up()
    yield stack
    stack.down()


def pods(cluster: AnyCluster, name: str) -> list[dict[str, Any]]:
    return cluster.pods(modelops_dev__endpoint=name)


def deployment(cluster: AnyCluster, name: str) -> dict[str, Any]:
    found = [d for d in cluster.objects("deployments") if d["metadata"]["labels"]["modelops.dev/endpoint"] == name]
    assert len(found) == 1
    return found[0]


# no place


def test_endpoint_without_room_says_which_resource_and_starts_when_there_is_some(
    stack: ClusterStack, cluster: AnyCluster
):
    stack.client.apply(stack.spec(name="large", gpus=16))
    waiting = told(stack, "large", "No node has room: too little nvidia.com/gpu (2 nodes)")
    assert (waiting.state, waiting.url) == (EndpointState.DEPLOYING, None)
    cluster.nodes["huge"] = Node("huge", gpus=16)
    assert until(stack, "large", "Running").message == ""
    gone(stack, "large")
    del cluster.nodes["huge"]


def test_node_group_that_nobody_has_is_said(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec(name="picky", cluster="here", nodegroups=["h200"]))
    told(stack, "picky", "No node takes it")
    cluster.nodes["c"] = Node("c", labels={"modelops.dev/node-group": "h200"})
    until(stack, "picky", "Running")
    gone(stack, "picky")
    del cluster.nodes["c"]


def test_endpoint_held_back_by_a_quota_names_it_and_goes_on_when_there_is_more(
    stack: ClusterStack, cluster: AnyCluster
):
    cluster.limit("gpu-budget", {"requests.nvidia.com/gpu": 3})
    fields = {"gpus": 2, "min_replicas": 2, "max_replicas": 2}
    stack.client.apply(stack.spec(name="held", **fields))
    said = (
        "ResourceQuota gpu-budget admits no further pod (it asks for 2 requests.nvidia.com/gpu where 2 of 3 are taken)"
    )
    status = told(stack, "held", f"1 of 2 replicas answer. {said}: raise the quota")
    assert (status.state, status.condition) == (EndpointState.RUNNING, "Degraded")
    stack.client.apply(stack.spec(name="kept-out", gpus=2))
    status = told(stack, "kept-out", said)
    assert (status.state, status.url) == (EndpointState.DEPLOYING, None)
    cluster.unlimit("gpu-budget")
    for name in ("held", "kept-out"):
        assert until(stack, name, "Running").message == ""
        gone(stack, name)


def test_endpoint_that_finds_no_place_in_time_fails_with_what_the_scheduler_says(cluster: AnyCluster, tmp_path: Path):
    impatient = ClusterStack(tmp_path, cluster.controller_kubeconfig(tmp_path), placing_timeout_s=1)
    impatient.up()
    try:
        impatient.client.apply(impatient.spec(name="late", gpus=16))
        status = impatient.client.wait_ready("late", WAIT_S)
        assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "unschedulable")
        assert status.message.startswith("It found no place within 1 s. No node has room: too little nvidia.com/gpu")
        wait_until(lambda: not pods(cluster, "late"))
    finally:
        impatient.down()


def test_image_that_cannot_be_pulled_and_secret_that_is_not_there(stack: ClusterStack, cluster: AnyCluster):
    cluster.missing_images.add("acme/nothing:1")
    container = {**CONTAINER, "deployment": {"type": "container", "image": "acme/nothing:1"}}
    stack.client.apply(stack.spec(name="no-image", **container))
    status = stack.client.wait_ready("no-image", WAIT_S)
    assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "no_image")
    assert status.message.startswith("Image acme/nothing:1 cannot be pulled (ImagePullBackOff)")

    stack.client.apply(stack.spec(name="no-secret", env_variables={"API_KEY": "${API_KEY}"}, **CONTAINER))
    status = stack.client.wait_ready("no-secret", WAIT_S)
    assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "bad_config")
    assert 'secret "no-secret-env" not found' in status.message
    for name in ("no-image", "no-secret"):
        gone(stack, name)


# taken away


def test_lost_node_and_eviction_are_survived_without_a_wish(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec("--load-s", "0.2", name="moved"))
    before = stack.client.wait_ready("moved", WAIT_S)
    (pod,) = pods(cluster, "moved")
    node = cluster.nodes[pod["spec"]["nodeName"]]
    node.ready = False
    told(stack, "moved", f"Its node {node.name} does not answer")
    wait_until(lambda: [p for p in pods(cluster, "moved") if "deletionTimestamp" in p["metadata"]], bool, LOST_S)
    after = until(stack, "moved", "Running")
    assert len(pods(cluster, "moved")) == 2, "nobody knows whether the first one still runs"
    node.ready = True
    (left,) = wait_until(lambda: pods(cluster, "moved"), lambda found: len(found) == 1)
    cluster.evict(left["metadata"]["name"])
    again = wait_until(lambda: stack.client.get("moved"), lambda s: s and s.url and s.since > after.since, WAIT_S)
    assert again is not None
    assert (again.state, again.message, again.restarts) == (EndpointState.RUNNING, "", 0)
    assert again.url == before.url, "the address is the Service's, not the pod's"
    gone(stack, "moved")


def test_pod_that_its_node_ends_is_replaced_and_counts_as_no_crash(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec("--load-s", "0.1", name="evicted"))
    before = stack.client.wait_ready("evicted", WAIT_S)
    (pod,) = pods(cluster, "evicted")
    cluster.evicted.add(pod["metadata"]["name"])
    after = wait_until(lambda: stack.client.get("evicted"), lambda s: s and s.url and s.since > before.since, WAIT_S)
    assert after is not None
    assert (after.state, after.message, after.restarts) == (EndpointState.RUNNING, "", 0)
    assert pod["metadata"]["name"] in {p["metadata"]["name"] for p in pods(cluster, "evicted")}, "a record of it stays"
    gone(stack, "evicted")


def test_preview_yields_to_production_and_says_so(stack: ClusterStack, cluster: AnyCluster):
    for name in ("one", "two"):
        stack.client.apply(stack.spec(name=name, gpus=8, priority="preview"))
        stack.client.wait_ready(name, WAIT_S)
    stack.client.apply(stack.spec(name="urgent", gpus=8, priority="production"))
    until(stack, "urgent", "Running")
    yielded = wait_until(
        lambda: [s for n in ("one", "two") if (s := stack.client.get(n)) and s.state == "Deploying"], bool, WAIT_S
    )[0]
    assert yielded.url is None
    name = yielded.spec.name
    told(stack, name, "No node has room")
    gone(stack, "urgent")
    until(stack, name, "Running")
    for each in ("one", "two"):
        gone(stack, each)


# who owns what


def test_autoscaler_owns_the_replicas_and_keeps_them_over_changes(stack: ClusterStack, cluster: AnyCluster):
    config = {"targets": [{"metric": "cpu", "target": 80}]}
    stack.client.apply(stack.spec(name="scaled", max_replicas=4, autoscale_config=config))
    stack.client.wait_ready("scaled", WAIT_S)
    first = deployment(cluster, "scaled")
    name = first["metadata"]["name"]
    assert not cluster.owns("modelops", "deployments", name, ("spec", "replicas"))
    cluster.scale("deployments", name, 3)
    wait_until(lambda: len(pods(cluster, "scaled")) == 3)
    before = {p["metadata"]["name"] for p in pods(cluster, "scaled")}
    stack.client.apply(stack.spec(name="scaled", max_replicas=6, autoscale_config=config))
    wait_until(lambda: cluster.objects("scaledobjects")[0]["spec"]["maxReplicaCount"], lambda n: n == 6)
    assert deployment(cluster, "scaled")["spec"]["replicas"] == 3
    assert {p["metadata"]["name"] for p in pods(cluster, "scaled")} == before, "nothing was started again"
    gone(stack, "scaled")
    assert cluster.objects("scaledobjects") == []


def test_autoscaler_that_comes_later_takes_over_what_there_is(stack: ClusterStack, cluster: AnyCluster):
    config = {"targets": [{"metric": "cpu", "target": 80}]}
    stack.client.apply(stack.spec(name="grown", min_replicas=2, max_replicas=2))
    stack.client.wait_ready("grown", WAIT_S)
    wait_until(lambda: len(pods(cluster, "grown")) == 2)
    seen: set[int] = set()
    stack.client.apply(stack.spec(name="grown", min_replicas=2, max_replicas=5, autoscale_config=config))
    wait_until(lambda: seen.add(deployment(cluster, "grown")["spec"]["replicas"]) or cluster.objects("scaledobjects"))
    seen.add(deployment(cluster, "grown")["spec"]["replicas"])
    assert seen == {2}, "leaving the field out would have set it to 1 for a moment"
    gone(stack, "grown")


def test_some_of_several_replicas_answer_is_degraded(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec(name="wide", gpus=6, min_replicas=3, max_replicas=3))
    status = told(stack, "wide", "2 of 3 replicas answer. No node has room: too little nvidia.com/gpu")
    assert (status.state, status.condition) == (EndpointState.RUNNING, "Degraded")
    assert status.url is not None
    cluster.nodes["d"] = Node("d")
    until(stack, "wide", "Running")
    gone(stack, "wide")
    del cluster.nodes["d"]


def test_delete_leaves_nothing_but_volumes(stack: ClusterStack, cluster: AnyCluster):
    claims = [{"mount_path": "/data", "size": "5"}]
    stack.client.apply(stack.spec(name="whole", persistent_volume_claims=claims, **CONTAINER))
    stack.client.wait_ready("whole", WAIT_S)
    assert {o["kind"] for o in cluster.objects("services")} == {"Service"}
    gone(stack, "whole")
    left = [o["metadata"]["name"] for p in ("deployments", "services", "pods") for o in cluster.objects(p)]
    assert [name for name in left if name.startswith("whole")] == []
    assert cluster.objects("poddisruptionbudgets") == []
    claims_left = {o["metadata"]["name"] for o in cluster.objects("persistentvolumeclaims")}
    assert claims_left - {"modelops-home", "modelops-scores"} == {"whole-pvc-data"}


def test_endpoint_deleted_and_made_again_at_once_keeps_what_belongs_to_it(stack: ClusterStack, cluster: AnyCluster):
    config = {"targets": [{"metric": "cpu", "target": 80}]}
    spec = stack.spec(name="again", max_replicas=4, autoscale_config=config)
    for _ in range(3):
        stack.client.apply(spec)
        stack.client.wait_ready("again", WAIT_S)
        gone(stack, "again")
    stack.client.apply(spec)
    stack.client.wait_ready("again", WAIT_S)
    wait_a_moment()
    (owner,) = {d["metadata"]["uid"] for d in cluster.objects("deployments")}
    for plural in ("services", "poddisruptionbudgets", "scaledobjects"):
        (item,) = cluster.objects(plural)
        assert [o["uid"] for o in item["metadata"]["ownerReferences"]] == [owner], plural
        assert "deletionTimestamp" not in item["metadata"], plural
    gone(stack, "again")


def test_workload_that_somebody_deletes_comes_back(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec(name="needed"))
    stack.client.wait_ready("needed", WAIT_S)
    first = deployment(cluster, "needed")
    cluster.remove("deployments", first["metadata"]["name"])
    wait_until(
        lambda: [d["metadata"]["uid"] for d in cluster.objects("deployments")],
        lambda uids: uids and first["metadata"]["uid"] not in uids,
        WAIT_S,
    )
    until(stack, "needed", "Running")
    gone(stack, "needed")


def test_engine_that_stops_answering_is_unreachable_and_back_by_itself(stack: ClusterStack, cluster: AnyCluster):
    stack.client.apply(stack.spec(name="mute"))
    before = stack.client.wait_ready("mute", WAIT_S)
    (pod,) = pods(cluster, "mute")
    cluster.muted.add(pod["metadata"]["name"])
    during = until(stack, "mute", "Running", "Unreachable")
    assert (during.url, during.message) == (None, "Its engine runs and does not pass its readiness probe.")
    cluster.muted.clear()
    after = until(stack, "mute", "Running")
    assert (after.url, after.message, after.since) == (before.url, "", before.since)
    gone(stack, "mute")
