"""What the controller cannot ask of a cluster, and API servers that do not answer: on the fake one alone."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import InvalidSpec
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.cluster.stack import WAIT_S, ClusterStack, gone, until, wait_a_moment
from tests.fakes.stack import wait_until


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


def pods(cluster: FakeCluster, name: str) -> list[dict[str, Any]]:
    return cluster.pods(modelops_dev__endpoint=name)


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
