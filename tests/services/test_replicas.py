"""Several replicas behind one endpoint: the real controller, the real gateway, processes for engines."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import RouteTarget
from tests.fakes.stack import Stack, wait_until
from tests.services.gateway_process import Gateway


def answering(status: EndpointStatus | None) -> int:
    return sum(replica.url is not None for replica in status.replicas) if status else 0


def wait_for(stack: Stack, replicas: int, name: str = "small") -> EndpointStatus:
    status = wait_until(
        lambda: stack.client.get(name), lambda s: answering(s) == replicas and len(s.replicas) == replicas
    )
    assert status is not None
    return status


def urls_in(stack: Stack, name: str = "small") -> set[str]:
    live = json.loads((stack.home / "controller" / "live.json").read_text())
    return {url for endpoint in live if endpoint["name"] == name for url in endpoint["urls"]}


def kill_replica(stack: Stack, index: int) -> None:
    """Kill it once it answers, and wait until the controller knows."""
    status = wait_until(lambda: stack.client.get("small"), lambda s: s and s.replicas[index].url)
    assert status is not None
    pid = status.replicas[index].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: stack.client.get("small"), lambda s: s and s.replicas[index].pid != pid)


@pytest.fixture
def three(stack: Stack) -> Iterator[Stack]:
    stack.up()
    stack.client.apply(stack.spec("--child", min_replicas=3, max_replicas=4))
    wait_for(stack, 3)
    yield stack


def test_each_replica_has_its_own_process_and_port_and_is_listed(three: Stack):
    status = wait_for(three, 3)
    assert (status.state, status.condition, status.message) == (EndpointState.RUNNING, None, "")
    assert [replica.index for replica in status.replicas] == [0, 1, 2]
    assert len({replica.pid for replica in status.replicas}) == 3
    assert urls_in(three) == {str(replica.url) for replica in status.replicas}
    assert len(three.engines()) == 6
    assert len(set(three.engines().values())) == 3, "each writes a log of its own"


def test_one_that_dies_leaves_the_endpoint_running_and_degraded(three: Stack):
    victim = wait_for(three, 3).replicas[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    seen = wait_until(lambda: three.client.get("small"), lambda s: s and answering(s) == 2)
    assert seen is not None
    assert seen.state is EndpointState.RUNNING
    assert seen.url is not None
    degraded = wait_until(lambda: three.client.get("small"), lambda s: s and s.condition == "Degraded")
    assert degraded is not None
    assert "SIGKILL" in degraded.message
    after = wait_for(three, 3)
    assert (after.condition, after.restarts) == (None, 1)
    assert [r.pid for r in after.replicas if r.index != 1] == [r.pid for r in seen.replicas if r.index != 1]
    assert len(three.engines()) == 6


def test_one_that_is_given_up_leaves_the_others_and_a_start_tries_it_again(three: Stack):
    for _ in range(3):
        kill_replica(three, 2)
    status = wait_until(
        lambda: three.client.get("small"), lambda s: s and s.replicas[2].state is EndpointState.RUNTIME_ERROR
    )
    assert status is not None
    assert (status.state, status.condition, answering(status)) == (EndpointState.RUNNING, "Degraded", 2)
    three.client.start("small")
    assert wait_for(three, 3).condition is None


def test_scaling_replaces_no_engine(three: Stack):
    before = {r.index: r.pid for r in wait_for(three, 3).replicas}
    three.client.apply(three.spec("--child", min_replicas=1, max_replicas=4))
    assert {r.index: r.pid for r in wait_for(three, 1).replicas} == {0: before[0]}
    wait_until(lambda: len(three.engines()) == 2)
    three.client.apply(three.spec("--child", min_replicas=2, max_replicas=4))
    after = {r.index: r.pid for r in wait_for(three, 2).replicas}
    assert after[0] == before[0]
    assert len(after) == 2


def test_stop_start_and_new_spec_concern_all_of_them(three: Stack):
    before = {r.pid for r in wait_for(three, 3).replicas}
    three.client.apply(three.spec("--child", "--load-s", "0.1", min_replicas=3, max_replicas=3))
    wait_until(lambda: three.client.get("small"), lambda s: s and answering(s) == 3)
    between = {r.pid for r in wait_for(three, 3).replicas}
    assert not before & between
    three.client.stop("small")
    three.client.wait_stopped("small", 60)
    assert three.engines() == {}
    assert urls_in(three) == set()
    three.client.start("small")
    wait_for(three, 3)
    three.client.delete("small")
    three.client.wait_deleted("small", 60)
    assert three.engines() == {}


def test_a_killed_controllers_successor_adopts_them_all(three: Stack):
    before = wait_for(three, 3)
    three.kill()
    three.up()
    assert three.client.get("small") == before
    assert three.terminate() == 0
    assert three.engines() == {}
    three.up()
    assert answering(wait_for(three, 3)) == 3


def test_the_gateway_sends_calls_to_all_of_them_and_past_a_dead_one(stack: Stack):
    stack.up()
    stack.client.apply(stack.spec("--tokens-per-second", "20", min_replicas=2, max_replicas=2))
    status = wait_for(stack, 2)
    gateway = Gateway(stack.home)
    gateway.wait_ready()
    try:
        target = RouteTarget(endpoint="small", url=str(status.url), served_model_name="small@abc", commit_hash="c" * 40)
        gateway.put("acme/small", target)
        key = gateway.key()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: gateway.post(key, "acme/small"), range(8)))
        assert [a.status_code for a in answers] == [200] * 8
        logs = {path.stem: path.read_text().count("POST /v1/chat") for path in set(stack.engines().values())}
        assert sorted(logs.values()) == [4, 4], "the least busy one answers"
        pid = status.replicas[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: gateway.post(key, "acme/small"), range(12)))
        assert [a.status_code for a in answers] == [200] * 12, "a call that meets the dead one is made again"
    finally:
        gateway.stop()


def test_replicas_follow_the_calls_at_once_and_none_is_cut_off(stack: Stack):
    stack.up()
    scaling = {"targets": [{"metric": "concurrency", "target": 2}]}
    status = stack.ready("--tokens-per-second", "5", min_replicas=1, max_replicas=3, autoscale_config=scaling)
    gateway = Gateway(stack.home)
    gateway.wait_ready()
    answers: list[int] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(gateway.post(key, "acme/small", body={"max_tokens": 8}).status_code)

    try:
        target = RouteTarget(endpoint="small", url=str(status.url), served_model_name="small@abc", commit_hash="c" * 40)
        gateway.put("acme/small", target)
        key = gateway.key()
        clients = [threading.Thread(target=client) for _ in range(6)]
        for thread in clients:
            thread.start()
        wait_for(stack, 3)
        stop.set()
        for thread in clients:
            thread.join()
        back = wait_for(stack, 1)
    finally:
        stop.set()
        gateway.stop()
    assert set(answers) == {200}
    assert (back.state, back.condition) == (EndpointState.RUNNING, None)
    assert len(stack.engines()) == 1


def test_replicas_follow_what_engines_take_of_the_machine(stack: Stack):
    stack.up()
    scaling = {"targets": [{"metric": "ram", "target": 1}]}
    stack.ready(min_replicas=1, max_replicas=2, memory_request=0.05, autoscale_config=scaling)
    assert wait_for(stack, 2).state is EndpointState.RUNNING
