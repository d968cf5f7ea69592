"""Random kills of controller, engine, worker and research job, among random wishes."""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.domain.endpoints import FAILED_STATES, EndpointSpec, EndpointStatus
from modelops_dagster.domain.research import JobRequest, JobState, ResearchJob
from tests.fakes.stack import Stack, wait_until

RESTARTS = ("--max-restarts", "1000")
JOB = "import time; print('up', flush=True); time.sleep(3600)"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A machine with five accelerators."""
    stack = Stack(tmp_path, MODELOPS_GPUS="5xH100-80GB")
    yield stack
    stack.down()


def specs(stack: Stack, load_s: float = 0.0) -> dict[str, EndpointSpec]:
    """A pair of replicas, one that wants most accelerators, and one without any whose worker leaves its session."""
    load = ("--load-s", f"{load_s:.3f}")
    return {
        "pair": stack.spec("--child", *load, name="pair", gpus=1, min_replicas=2, max_replicas=2),
        "wide": stack.spec("--child", *load, name="wide", gpus=2, priority="production"),
        "plain": stack.spec("--own-session-child", *load, name="plain"),
    }


def settled(stack: Stack, name: str) -> EndpointStatus:
    """The endpoint, once it is as asked for. What was killed before it was ready has failed, and is tried again."""

    def as_asked(status: EndpointStatus | None) -> bool:
        assert status is not None
        if status.desired == "Stopped":
            return status.state == "Stopped" and len(status.replicas) == 1
        if any(replica.state in FAILED_STATES for replica in status.replicas):
            stack.client.start(name)
        return len(status.replicas) == status.spec.min_replicas and all(r.url for r in status.replicas)

    found = wait_until(lambda: stack.client.get(name), as_asked, timeout_s=60)
    assert found is not None
    return found


def torment(stack: Stack, dice: random.Random, kills: int) -> None:
    """Kill something, `kills` times, each time after another wish."""
    names = list(specs(stack))
    for _ in range(kills):
        name = dice.choice(names)
        wish = dice.choice(["start", "stop", "restart", "new spec", "none"])
        if wish == "new spec":
            stack.client.apply(specs(stack, dice.random() / 5)[name])
        elif wish != "none":
            getattr(stack.client, wish)(name)
        time.sleep(dice.random() * 0.4)
        what = dice.choice(["controller", "leader", "anybody", "anybody"])
        if what == "controller":
            stack.kill()
            stack.up(*RESTARTS)
            continue
        pids = sorted({**stack.engines(), **(stack.jobs() if dice.random() < 0.1 else {})})
        leaders = [pid for pid in pids if (s := processes.read_stat(pid)) is not None and s.session == pid]
        victims = leaders if what == "leader" else pids
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(victims), signal.SIGKILL)


def see_that_all_is_well(stack: Stack, statuses: list[EndpointStatus], jobs: tuple[ResearchJob, ...]) -> None:
    """No orphan, no second engine, no port and no accelerator in two hands, and everything claimed is really there."""
    running = [replica for status in statuses for replica in status.replicas if status.desired == "Running"]
    logs = set(stack.engines().values())
    assert len(logs) == len(running), "an engine that no replica claims, or a replica without one"
    assert {log.parent.name for log in logs} == {s.spec.name for s in statuses if s.desired == "Running"}
    urls = [str(replica.url) for replica in running]
    assert len(set(urls)) == len(urls)
    assert all(httpx.get(f"{url}/models", trust_env=False).is_success for url in urls)
    held = [device for replica in running for device in replica.devices]
    held += [device for job in jobs for device in job.devices]
    assert len(set(held)) == len(held), f"an accelerator has two users: {held}"
    assert len(held) == sum(s.spec.gpus * s.spec.min_replicas for s in statuses if s.desired == "Running") + sum(
        job.request.gpus for job in jobs if job.state is JobState.RUNNING
    )
    for replica in running:
        shown = [
            line.partition("=")[2]
            for line in Path(f"/proc/{replica.pid}/environ").read_text().split("\0")
            if line.startswith("CUDA_VISIBLE_DEVICES=")
        ]
        assert shown == ([",".join(replica.devices)] if replica.devices else [])
    alive = {log.stem for log in stack.jobs().values()}
    assert alive == {job.job_id for job in jobs if job.state is JobState.RUNNING}


def at_rest(stack: Stack) -> list[EndpointStatus]:
    """How endpoints stand once ten looks of the controller change nothing: the last kill may not have been seen yet."""
    before = [settled(stack, name) for name in specs(stack)]
    for _ in range(20):
        time.sleep(1.0)
        now = [settled(stack, name) for name in specs(stack)]
        if [s.replicas for s in now] == [s.replicas for s in before]:
            return now
        before = now
    raise AssertionError(f"they do not come to rest: {before}")


@pytest.mark.parametrize(("seed", "kills"), [(1, 20), pytest.param(2, 200, marks=pytest.mark.long)])
def test_random_kills_leave_everything_as_it_was_asked_for(stack: Stack, seed: int, kills: int):
    dice = random.Random(seed)  # noqa: S311 - the same kills every time
    stack.up(*RESTARTS)
    command = (sys.executable, "-S", "-c", JOB)
    request = JobRequest(command=command, owner="ada", gpus=2, directory=str(stack.home), grace_s=0.2)
    for _ in range(2):
        stack.client.submit_job(request)
    for spec in specs(stack).values():
        stack.client.apply(spec)
    torment(stack, dice, kills)
    statuses = at_rest(stack)
    jobs = wait_until(
        stack.client.list_jobs, lambda jobs: not any(j.state is JobState.STOPPING for j in jobs), timeout_s=30
    )
    assert [s.spec.name for s in stack.client.list()] == ["pair", "plain", "wide"]
    see_that_all_is_well(stack, statuses, jobs)
    assert stack.terminate() == 0
    assert {**stack.engines(), **stack.jobs()} == {}
