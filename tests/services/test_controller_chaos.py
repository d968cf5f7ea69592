"""Random kills of controller, engine and worker, among random wishes."""

import contextlib
import os
import random
import signal
import time

import pytest

from modelops_dagster.clients import processes
from tests.fakes.stack import Stack, wait_until


def settle(stack: Stack, name: str) -> None:
    """Wait until the endpoint is as asked for. One that was killed before it was ready has failed, and is retried."""
    status = wait_until(lambda: stack.client.get(name))
    assert status is not None
    if status.desired == "Stopped":
        stack.client.wait_stopped(name, 20)
        return
    if stack.client.wait_ready(name, 30).failed:
        assert name not in {log.parent.name for log in stack.engines().values()}
        stack.client.start(name)
        assert stack.client.wait_ready(name, 30).url


@pytest.mark.parametrize("seed", [1])
def test_twenty_random_kills_leave_everything_as_it_was_asked_for(stack: Stack, seed: int):
    dice = random.Random(seed)  # noqa: S311 - the same kills every time
    stack.up("--max-restarts", "1000")
    names = ["one", "two", "three"]
    for name in names:
        stack.client.apply(stack.spec("--child", name=name))
    for _ in range(20):
        what = dice.choice(["controller", "leader", "anybody", "anybody"])
        name = dice.choice(names)
        wish = dice.choice(["start", "stop", "restart", "new spec", "none"])
        if wish == "new spec":
            stack.client.apply(stack.spec("--child", "--load-s", f"{dice.random() / 5:.3f}", name=name))
        elif wish != "none":
            getattr(stack.client, wish)(name)
        time.sleep(dice.random() * 0.4)
        if what == "controller":
            stack.kill()
            stack.up("--max-restarts", "1000")
            continue
        pids = sorted(stack.engines())
        leaders = [pid for pid in pids if (s := processes.read_stat(pid)) is not None and s.session == pid]
        victims = leaders if what == "leader" else pids
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(victims), signal.SIGKILL)
    for name in names:
        settle(stack, name)
    statuses = stack.client.list()
    running = [s for s in statuses if s.desired == "Running"]
    assert len(statuses) == 3
    assert len({s.url for s in running}) == len(running)
    assert {log.parent.name for log in stack.engines().values()} == {s.spec.name for s in running}
    assert len(set(stack.engines().values())) == len(running), "an endpoint has two engines"
    assert stack.terminate() == 0
    assert stack.engines() == {}
