"""The controller on a cluster that has troubles of its own: no room, no image, lost nodes, autoscalers, outages."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from modelops_dagster.domain.errors import InvalidSpec
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.cluster.stack import ClusterStack, wait_a_moment
from tests.fakes.stack import wait_until

WAIT_S = 60.0
CONTAINER = {
    "deployment": {"type": "container", "image": "acme/server:1"},
    "ports": {"http": {"port": 8200}},
    "healthcheck": {"path": "/health", "port": 8200, "periodSeconds": 1},
    **dict.fromkeys(("checkpoint", "checkpoint_digest", "engine"), ""),
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster(Node("a", gpus=8), Node("b", gpus=8)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def stack(cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    folder = tmp_path_factory.mktemp("cluster")
    stack = ClusterStack(folder, cluster.api.kubeconfig(folder))
    stack.up()
    yield stack
    stack.down()


def until(stack: ClusterStack, name: str, state: str, condition: str | None = None) -> EndpointStatus:
    found = wait_until(
        lambda: stack.client.get(name), lambda s: s and s.state == state and s.condition == condition, WAIT_S
    )
    assert found is not None
    return found


def told(stack: ClusterStack, name: str, part: str) -> EndpointStatus:
    found = wait_until(lambda: stack.client.get(name), lambda s: s and part in s.message, WAIT_S)
    assert found is not None
    return found


def gone(stack: ClusterStack, name: str) -> None:
    stack.client.delete(name)
    stack.client.wait_deleted(name, WAIT_S)


def pods(cluster: FakeCluster, name: str) -> list[dict[str, Any]]:
    return cluster.pods(modelops_dev__endpoint=name)


def deployment(cluster: FakeCluster, name: str) -> dict[str, Any]:
    found = [d for d in cluster.objects("deployments") if d["metadata"]["labels"]["modelops.dev/endpoint"] == name]
    assert len(found) == 1
    return found[0]


# no place


def test_endpoint_without_room_says_which_resource_and_starts_when_there_is_some(
    stack: ClusterStack, cluster: FakeCluster
):
    stack.client.apply(stack.spec(name="large", gpus=16))
    waiting = told(stack, "large", "No node has room: too little nvidia.com/gpu (2 nodes)")
    assert (waiting.state, waiting.url) == (EndpointState.DEPLOYING, None)
    cluster.nodes["huge"] = Node("huge", gpus=16)
    assert until(stack, "large", "Running").message == ""
    gone(stack, "large")
    del cluster.nodes["huge"]


def test_node_group_that_nobody_has_is_said(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="picky", cluster="here", nodegroups=["h200"]))
    told(stack, "picky", "No node takes it")
    cluster.nodes["c"] = Node("c", labels={"modelops.dev/node-group": "h200"})
    until(stack, "picky", "Running")
    gone(stack, "picky")
    del cluster.nodes["c"]


def test_endpoint_that_finds_no_place_in_time_fails_with_what_the_scheduler_says(cluster: FakeCluster, tmp_path: Path):
    impatient = ClusterStack(tmp_path, cluster.api.kubeconfig(tmp_path), placing_timeout_s=1)
    impatient.up()
    try:
        impatient.client.apply(impatient.spec(name="late", gpus=16))
        status = impatient.client.wait_ready("late", WAIT_S)
        assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "unschedulable")
        assert status.message.startswith("It found no place within 1 s. No node has room: too little nvidia.com/gpu")
        wait_until(lambda: not pods(cluster, "late"))
    finally:
        impatient.down()


def test_image_that_cannot_be_pulled_and_secret_that_is_not_there(stack: ClusterStack, cluster: FakeCluster):
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


def test_lost_node_and_eviction_are_survived_without_a_wish(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec("--load-s", "0.2", name="moved"))
    before = stack.client.wait_ready("moved", WAIT_S)
    (pod,) = pods(cluster, "moved")
    node = cluster.nodes[pod["spec"]["nodeName"]]
    node.ready = False
    wait_until(lambda: [p["metadata"]["name"] for p in pods(cluster, "moved")] != [pod["metadata"]["name"]])
    after = until(stack, "moved", "Running")
    node.ready = True
    cluster.evict(pods(cluster, "moved")[0]["metadata"]["name"])
    again = wait_until(lambda: stack.client.get("moved"), lambda s: s and s.url and s.since > after.since, WAIT_S)
    assert again is not None
    assert (again.state, again.message, again.restarts) == (EndpointState.RUNNING, "", 0)
    assert again.url == before.url, "the address is the Service's, not the pod's"
    gone(stack, "moved")


def test_preview_yields_to_production_and_says_so(stack: ClusterStack, cluster: FakeCluster):
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


def test_autoscaler_owns_the_replicas_and_keeps_them_over_changes(stack: ClusterStack, cluster: FakeCluster):
    config = {"targets": [{"metric": "cpu", "target": 80}]}
    stack.client.apply(stack.spec(name="scaled", max_replicas=4, autoscale_config=config))
    stack.client.wait_ready("scaled", WAIT_S)
    first = deployment(cluster, "scaled")
    name = first["metadata"]["name"]
    owners = cluster.api.store.owners_of(("deployments", "modelops", name))
    assert ("spec", "replicas") not in owners["modelops"]
    cluster.scale("deployments", name, 3)
    wait_until(lambda: len(pods(cluster, "scaled")) == 3)
    before = {p["metadata"]["name"] for p in pods(cluster, "scaled")}
    stack.client.apply(stack.spec(name="scaled", max_replicas=6, autoscale_config=config))
    wait_until(lambda: cluster.objects("scaledobjects")[0]["spec"]["maxReplicaCount"], lambda n: n == 6)
    assert deployment(cluster, "scaled")["spec"]["replicas"] == 3
    assert {p["metadata"]["name"] for p in pods(cluster, "scaled")} == before, "nothing was started again"
    gone(stack, "scaled")
    assert cluster.objects("scaledobjects") == []


def test_autoscaler_that_comes_later_takes_over_what_there_is(stack: ClusterStack, cluster: FakeCluster):
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


def test_some_of_several_replicas_answer_is_degraded(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="wide", gpus=6, min_replicas=3, max_replicas=3))
    status = until(stack, "wide", "Running", "Degraded")
    assert status.message.startswith("2 of 3 replicas answer. No node has room: too little nvidia.com/gpu")
    assert status.url is not None
    cluster.nodes["d"] = Node("d")
    until(stack, "wide", "Running")
    gone(stack, "wide")
    del cluster.nodes["d"]


def test_delete_leaves_nothing_but_volumes(stack: ClusterStack, cluster: FakeCluster):
    claims = [{"mount_path": "/data", "size": "5"}]
    stack.client.apply(stack.spec(name="whole", persistent_volume_claims=claims, **CONTAINER))
    stack.client.wait_ready("whole", WAIT_S)
    assert {o["kind"] for o in cluster.objects("services")} == {"Service"}
    gone(stack, "whole")
    left = [o["metadata"]["name"] for p in ("deployments", "services", "pods") for o in cluster.objects(p)]
    assert [name for name in left if name.startswith("whole")] == []
    assert cluster.objects("poddisruptionbudgets") == []
    assert [o["metadata"]["name"] for o in cluster.objects("persistentvolumeclaims")] == ["whole-pvc-data"]


def test_workload_that_somebody_deletes_comes_back(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="needed"))
    stack.client.wait_ready("needed", WAIT_S)
    first = deployment(cluster, "needed")
    cluster.api.store.remove(("deployments", "modelops", first["metadata"]["name"]))
    wait_until(
        lambda: [d["metadata"]["uid"] for d in cluster.objects("deployments")],
        lambda uids: uids and first["metadata"]["uid"] not in uids,
        WAIT_S,
    )
    until(stack, "needed", "Running")
    gone(stack, "needed")


# what the cluster cannot do


def test_spec_that_a_cluster_cannot_serve_is_refused_at_once(stack: ClusterStack):
    with pytest.raises(InvalidSpec, match="needs Prometheus"):
        config = {"targets": [{"metric": "gpu", "target": 80}]}
        stack.client.apply(stack.spec(name="blind", max_replicas=2, autoscale_config=config))
    with pytest.raises(InvalidSpec, match="is not under"):
        stack.client.apply(stack.spec(name="elsewhere", checkpoint="/mnt/elsewhere"))
    assert stack.client.get("blind") is None


def test_cluster_without_keda_says_what_to_install(stack: ClusterStack, cluster: FakeCluster):
    cluster.api.absent.add("scaledobjects")
    config = {"targets": [{"metric": "cpu", "target": 80}]}
    stack.client.apply(stack.spec(name="unscaled", max_replicas=3, autoscale_config=config))
    status = stack.client.wait_ready("unscaled", WAIT_S)
    assert status.state is EndpointState.DEPLOY_FAILED
    assert "The cluster knows no ScaledObject: install what brings it" in status.message
    cluster.api.absent.clear()
    wait_until(lambda: not pods(cluster, "unscaled"))
    gone(stack, "unscaled")


# outages


def test_watches_tell_everything_and_nothing_is_polled(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="watched"))
    stack.client.wait_ready("watched", WAIT_S)
    wait_a_moment()
    cluster.api.counts.clear()
    wait_a_moment()
    asked = {verb: n for verb, n in cluster.api.counts.items() if not verb.startswith("watch")}
    assert asked == {}
    gone(stack, "watched")


def test_api_server_outage_degrades_and_ends_nothing(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="calm"))
    before = stack.client.wait_ready("calm", WAIT_S)
    cluster.api.failing = 503
    cluster.api.drop_watches()
    during = until(stack, "calm", "Running", "Degraded")
    assert "The API server answered 503" in during.message
    assert during.url == before.url, "what ran before the outage still answers"
    cluster.api.failing = None
    assert until(stack, "calm", "Running").message == ""
    assert len(pods(cluster, "calm")) == 1
    gone(stack, "calm")


def test_controller_without_its_records_takes_over_what_runs(cluster: FakeCluster, tmp_path: Path):
    (tmp_path / "one").mkdir()
    first = ClusterStack(tmp_path / "one", cluster.api.kubeconfig(tmp_path))
    first.up()
    first.client.apply(first.spec("--load-s", "0.1", name="orphan"))
    first.client.wait_ready("orphan", WAIT_S)
    before = [p["metadata"]["name"] for p in pods(cluster, "orphan")]
    first.kill()
    (tmp_path / "two").mkdir()
    second = ClusterStack(tmp_path / "two", cluster.api.kubeconfig(tmp_path))
    second.up()
    try:
        status = until(second, "orphan", "Running")
        assert status.spec.engine_args == ("--load-s", "0.1")
        assert [p["metadata"]["name"] for p in pods(cluster, "orphan")] == before, "nothing was started again"
        gone(second, "orphan")
    finally:
        second.down()


def test_unusable_configuration_ends_the_program_with_a_sentence(tmp_path: Path):
    stack = ClusterStack(tmp_path, tmp_path / "nothing")
    program = stack.run()
    assert isinstance(program, subprocess.Popen)
    assert program.wait(60) == 2
    assert "is not a usable kubeconfig" in stack.log.read_text()


def test_engine_that_stops_answering_is_unreachable_and_back_by_itself(stack: ClusterStack, cluster: FakeCluster):
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
