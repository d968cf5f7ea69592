"""Accelerators of one machine, declared, with the real controller and processes for engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from tests.fakes.stack import Stack, wait_until

SLEEPS = {"scale_to_zero": True, "autoscale_config": {"targets": [{"metric": "concurrency", "target": 4}]}}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, MODELOPS_GPUS="2xH100-80GB")
    stack.up()
    yield stack
    stack.down()


def visible(status: EndpointStatus) -> list[str]:
    """What each engine of the endpoint may see, from its own environment."""
    found = []
    for replica in status.replicas:
        environ = Path(f"/proc/{replica.pid}/environ").read_bytes().decode().split("\0")
        found += [line.partition("=")[2] for line in environ if line.startswith("CUDA_VISIBLE_DEVICES=")]
    return found


def waiting(stack: Stack, name: str) -> str:
    status = wait_until(lambda: stack.client.get(name), lambda s: s and s.message)
    assert status is not None
    return status.message


def test_each_replica_sees_its_own_devices_and_the_next_one_waits(stack: Stack):
    stack.client.apply(stack.spec(gpus=1, min_replicas=2, max_replicas=2))
    status = wait_until(lambda: stack.client.get("small"), lambda s: s and all(r.url for r in s.replicas))
    assert status is not None
    assert sorted(visible(status)) == ["0", "1"]
    assert [r.devices for r in status.replicas] == [(d,) for d in visible(status)]
    stack.client.apply(stack.spec(name="next", gpus=1))
    assert waiting(stack, "next") == (
        "Waits for 1 accelerator: 0 of 2 are free; small (preview) has 1, small[1] (preview) has 1."
    )
    assert stack.state("next") is EndpointState.BUILDING
    stack.client.stop("small")
    ready = stack.client.wait_ready("next", 20)
    assert (ready.state, ready.message) == (EndpointState.RUNNING, "")


def test_more_than_there_is_is_refused_and_not_waited_for(stack: Stack):
    stack.client.apply(stack.spec(gpus=3))
    status = stack.client.wait_ready("small", 20)
    assert (status.state, status.reason) == (EndpointState.BUILDING_FAILED, "bad_config")
    assert "asks for 3 accelerators and this machine has 2 accelerators" in status.message


def test_devices_are_held_over_a_killed_controller_and_freed_by_a_dead_engine(stack: Stack):
    before = stack.ready("--child", gpus=2)
    stack.kill()
    stack.up()
    stack.client.apply(stack.spec(name="next", gpus=1))
    assert "small (preview) has 2" in waiting(stack, "next")
    assert stack.client.get("small") == before
    stack.client.delete("small")
    assert stack.client.wait_ready("next", 20).replicas[0].devices == ("0",)


def test_an_idle_endpoint_sleeps_before_its_time_for_one_that_needs_room(stack: Stack):
    stack.ready(name="idle", gpus=2, **SLEEPS)
    stack.ready(name="research", gpus=0)
    stack.client.apply(stack.spec(name="next", gpus=1))
    assert stack.client.wait_ready("next", 30).state is EndpointState.RUNNING
    idle = stack.client.get("idle")
    assert idle is not None
    assert (idle.state, idle.desired) == (EndpointState.SLEEPING, "Running")


def test_lower_priority_is_evicted_and_comes_back_production_stays(stack: Stack):
    stack.ready("--child", name="trial", gpus=2, priority="research")
    stack.ready(name="prod", gpus=2, priority="production")
    trial = wait_until(lambda: stack.client.get("trial"), lambda s: s and s.condition == "Preempted" and s.pid is None)
    assert trial is not None
    assert trial.state is EndpointState.DEPLOYING
    assert "prod (production) has 2" in waiting(stack, "trial")
    stack.client.apply(stack.spec(name="more", gpus=1, priority="production"))
    assert "Waits for 1 accelerator" in waiting(stack, "more")
    assert stack.state("prod") is EndpointState.RUNNING
    stack.client.delete("more")
    stack.client.stop("prod")
    back = stack.client.wait_ready("trial", 20)
    assert (back.state, back.condition, back.message, back.restarts) == (EndpointState.RUNNING, None, "", 0)
