"""What an endpoint does, wherever it runs: the same tests with processes of this machine and with a cluster.

The cluster is the fake one; `pytest --kubeconfig FILE` uses a real one besides (see docs/kubernetes.md).
"""

from collections.abc import Iterator

import httpx
import pytest

from modelops_dagster.domain.endpoints import EndpointState
from tests.fakes.cluster.kubelet import FakeCluster
from tests.fakes.cluster.real import real_cluster
from tests.fakes.cluster.stack import Bench, ClusterBench, ClusterStack, wait_a_moment
from tests.fakes.stack import Stack, wait_until

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
START_S = 120.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test on each bench; the real cluster only where one was given."""
    given = metafunc.config.getoption("--kubeconfig") is not None
    benches = ["machine", "cluster", *(["real cluster"] if given else [])]
    metafunc.parametrize("bench", benches, indirect=True, scope="module")


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    if request.param == "machine":
        stack = Stack(folder)
        yield Bench(stack.up())
        stack.down()
    elif request.param == "cluster":
        with FakeCluster() as cluster:
            stack = ClusterStack(folder, cluster.api.kubeconfig(folder))
            yield ClusterBench(stack.up(), cluster)
            stack.down()
    else:
        with real_cluster(request.config) as cluster:
            stack = ClusterStack(folder, cluster.controller_kubeconfig(folder))
            yield ClusterBench(stack.up(), cluster)
            stack.down()


def test_from_nothing_to_running_to_stopped_to_deleted(bench: Bench):
    client = bench.stack.client
    client.apply(bench.spec("small", "--load-s", "0.5"))
    seen: list[EndpointState] = []
    status = client.wait_ready("small", START_S, lambda s: seen.append(s.state))
    order = [s for s in (EndpointState.STARTUP, EndpointState.RUNNING) if s in seen]
    assert order == [EndpointState.STARTUP, EndpointState.RUNNING]
    assert status.url is not None
    assert status.url.endswith("/v1")
    assert status.start_seconds is not None
    assert status.start_seconds >= 0.5
    assert (status.message, status.condition, status.restarts) == ("", None, 0)
    assert "INFO: listening" in client.logs("small", 10)
    assert len(bench.engines("small")) == 1

    client.stop("small")
    client.wait_stopped("small", START_S)
    assert bench.engines("small") == set()
    client.start("small")
    assert client.wait_ready("small", START_S).state is EndpointState.RUNNING
    client.delete("small")
    client.wait_deleted("small", START_S)
    assert bench.engines("small") == set()


def test_same_spec_changes_nothing_and_another_one_replaces_the_engine(bench: Bench):
    client = bench.stack.client
    first = client.apply(bench.spec("steady"))
    first = client.wait_ready("steady", START_S)
    before = bench.engines("steady")
    client.apply(bench.spec("steady"))
    wait_a_moment()
    assert bench.engines("steady") == before
    assert client.get("steady") == first
    client.apply(bench.spec("steady", "--load-s", "0.1"))
    status = client.wait_ready("steady", START_S)
    assert status.state is EndpointState.RUNNING
    assert not bench.engines("steady") & before
    client.delete("steady")


@pytest.mark.parametrize(
    ("name", "engine_args", "fields", "reason", "message"),
    [
        ("oom", ["--fail-line", OUT_OF_MEMORY], {}, "out_of_memory", "ended with exit code 1 before it was"),
        ("hang", ["--hang"], {"start_timeout_s": 1}, "timeout", "was not ready within 1 s"),
    ],
)
def test_engine_that_never_gets_ready_fails_with_its_reason(
    bench: Bench, name: str, engine_args: list[str], fields: dict[str, object], reason: str, message: str
):
    client = bench.stack.client
    client.apply(bench.spec(name, *engine_args, **fields))
    status = client.wait_ready(name, START_S)
    assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, reason), status.message
    assert message in status.message
    assert f"`modelops endpoints logs {name}` shows the rest." in status.message
    wait_until(lambda: bench.engines(name), lambda left: not left)
    if reason == "out_of_memory":
        assert OUT_OF_MEMORY in status.log_tail
    client.delete(name)


def test_engine_that_keeps_dying_is_started_again_and_then_given_up(bench: Bench):
    client = bench.stack.client
    client.apply(bench.spec("dying", "--die-after-asked-s", "1"))
    status = wait_until(lambda: client.get("dying"), lambda s: s and s.failed, START_S)
    assert status is not None
    assert (status.state, status.reason) == (EndpointState.RUNTIME_ERROR, "crash")
    assert "ended with exit code 1 (crash)" in status.message
    assert "it died" in status.log_tail
    wait_until(lambda: bench.engines("dying"), lambda left: not left)
    client.start("dying")
    assert client.wait_ready("dying", START_S).state is EndpointState.RUNNING
    client.delete("dying")
    client.wait_deleted("dying", START_S)


def test_endpoint_that_nobody_asks_for_sleeps_and_wakes_by_a_start(bench: Bench):
    client = bench.stack.client
    config = {"targets": [{"metric": "cpu", "target": 80}], "cooldown_period": 1}
    client.apply(bench.spec("sleepy", scale_to_zero=True, min_replicas=0, autoscale_config=config))
    wait_until(lambda: client.get("sleepy"), lambda s: s and s.state is EndpointState.SLEEPING, START_S)
    wait_until(lambda: bench.engines("sleepy"), lambda left: not left)
    client.start("sleepy")
    wait_until(lambda: client.get("sleepy"), lambda s: s and s.state is EndpointState.RUNNING, START_S)
    client.delete("sleepy")
    client.wait_deleted("sleepy", START_S)


def test_killed_controller_finds_its_endpoints_again(bench: Bench):
    """Last in this file: it ends the program that the others share."""
    client = bench.stack.client
    client.apply(bench.spec("lasting"))
    client.wait_ready("lasting", START_S)
    before = bench.engines("lasting")
    bench.stack.kill()
    assert bench.engines("lasting") == before
    bench.stack.up()
    status = bench.stack.client.wait_ready("lasting", START_S)
    assert (status.state, bench.engines("lasting")) == (EndpointState.RUNNING, before)
    if bench.name == "machine":
        assert httpx.get(f"{status.url}/models", trust_env=False).is_success
    bench.stack.client.delete("lasting")
    bench.stack.client.wait_deleted("lasting", START_S)
    assert bench.engines("lasting") == set()
