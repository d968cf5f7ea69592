"""ASYNC endpoints on a cluster: the controller leaves to their autoscaler when they sleep and wake."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.domain.endpoints import EndpointState
from tests.fakes.cluster.kubelet import FakeCluster
from tests.fakes.cluster.stack import WAIT_S, ClusterStack, gone, until, wait_a_moment
from tests.fakes.stack import wait_until

SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "modelops-queue"}, "stringData": {}}
SCALING = {"targets": [{"metric": "queue_length", "target": 20}], "cooldown_period": 1}
QUEUED = {"async_deployment_type": "ASYNC", "scale_to_zero": True, "min_replicas": 0, "autoscale_config": SCALING}


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
def stack(cluster: FakeCluster, tmp_path: Path) -> Iterator[ClusterStack]:
    queue = {"url": "redis://redis.queues.svc", "image": "acme/core:1"}
    stack = ClusterStack(tmp_path, cluster.controller_kubeconfig(tmp_path), queue=queue)
    stack.up()
    yield stack
    stack.down()


def test_endpoint_without_the_secret_of_its_queue_says_which(stack: ClusterStack, cluster: FakeCluster):
    stack.client.apply(stack.spec(name="nightly", **QUEUED))
    failed = stack.client.wait_ready("nightly", WAIT_S)
    assert (failed.state, failed.reason) == (EndpointState.DEPLOY_FAILED, "bad_config")
    assert 'secret "modelops-queue" not found' in failed.message


def test_endpoint_sleeps_and_wakes_by_its_autoscaler_alone(stack: ClusterStack, cluster: FakeCluster):
    cluster.api.store.create(("secrets", "modelops", "modelops-queue"), SECRET)
    stack.client.apply(stack.spec(name="nightly", **QUEUED))
    until(stack, "nightly", "Running")
    assert [c["name"] for c in cluster.pods()[0]["spec"]["containers"]] == ["engine", "consumer"]
    wait_a_moment()
    wait_a_moment()
    until(stack, "nightly", "Running")
    (workload,) = [d["metadata"] for d in cluster.objects("deployments")]
    assert cluster.pods(), "nobody calls it, and it has work all the same"

    cluster.scale("deployments", workload["name"], 0)
    until(stack, "nightly", "Sleeping")
    wait_until(cluster.pods, lambda left: not left)
    wait_a_moment()
    (still,) = [d["metadata"] for d in cluster.objects("deployments")]
    assert still["uid"] == workload["uid"], "who would wake it is still there"
    health = stack.client.check_endpoint_health("nightly")
    assert (health.status, health.total_replicas) == ("sleeping", 0), "none is paid for"
    cluster.scale("deployments", workload["name"], 1)
    assert until(stack, "nightly", "Running").restarts == 0

    cluster.scale("deployments", workload["name"], 0)
    until(stack, "nightly", "Sleeping")
    stack.client.stop("nightly")
    until(stack, "nightly", "Stopped")
    for plural in ("deployments", "scaledobjects", "triggerauthentications"):
        wait_until(lambda kind=plural: cluster.objects(kind), lambda left: not left)
    gone(stack, "nightly")
