"""Accelerators of one machine, declared, with the real controller and processes for engines and jobs."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelops_dagster.cli.research import command
from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from tests.fakes.stack import Stack, wait_until
from tests.fakes.training import TRAINING

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
    ready = stack.client.wait_ready("next", 60)
    assert (ready.state, ready.message) == (EndpointState.RUNNING, "")


def test_more_than_there_is_is_refused_and_not_waited_for(stack: Stack):
    stack.client.apply(stack.spec(gpus=3))
    status = stack.client.wait_ready("small", 60)
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
    assert stack.client.wait_ready("next", 60).replicas[0].devices == ("0",)


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
    back = stack.client.wait_ready("trial", 60)
    assert (back.state, back.condition, back.message, back.restarts) == (EndpointState.RUNNING, None, "", 0)


@pytest.fixture
def research(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, as a person runs it; answers with the printed JSON."""
    for name, value in stack.settings.environ().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, exits: int = 0) -> Any:
        done = CliRunner().invoke(command, [*arguments, "--json"] if "--" not in arguments else list(arguments))
        assert done.exit_code == exits, done.output
        return json.loads(done.stdout)

    return run


def test_a_job_makes_room_for_a_new_endpoint_and_resumes_after_it(stack: Stack, research: Any):
    options = ("--gpus", "2", "--owner", "ada", "--env", "RATE=3", "--json")
    job_id = research("run", *options, "--", sys.executable, "-S", "-c", TRAINING)["job_id"]
    wait_until(lambda: research("logs", job_id)["text"].startswith("training"))
    stack.kill()
    stack.up()
    assert research("show", job_id)["state"] == "Running", "it outlives the controller"
    stack.client.apply(stack.spec(name="release", gpus=1))
    assert stack.client.wait_ready("release", 60).url
    job = wait_until(lambda: research("show", job_id), lambda job: "Waits for" in job["message"])
    assert job["state"] == "Queued"
    assert job["message"] == "Waits for 2 accelerators: 1 of 2 are free; release (preview) has 1."
    shown = CliRunner().invoke(command, ["list"]).output
    assert "GPU-hours lost" in shown
    (delivery,) = Outbox(stack.home / "alerts").recent(datetime.now(UTC))
    assert delivery.alert.title == f"Preempted: ada's {job_id}"
    assert "made room for release" in delivery.alert.lines
    stack.client.stop("release")
    wait_until(lambda: research("show", job_id)["state"] == "Succeeded")
    told = research("logs", job_id)["text"]
    assert "resumed on 0,1 in " in told and "RATE 3" in told


def test_a_job_can_be_cancelled_and_a_wrong_one_is_told_why(stack: Stack, research: Any):
    sleeping = ("--", sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)")
    job_id = research("run", "--json", *sleeping)["job_id"]
    wait_until(lambda: research("logs", job_id)["text"])
    assert research("cancel", job_id)["state"] == "Cancelled"
    assert research("list")["jobs"][0]["message"] == "Cancelled while it ran."
    failed = research("run", "--wait", "--json", "--", sys.executable, "-c", "raise SystemExit(4)", exits=1)
    assert (failed["state"], failed["exit_code"]) == ("Failed", 4)
    for arguments, told in [
        (["run", "--gpus", "9", "--", "true"], "asks for 9 accelerators and this machine has 2"),
        (["run", "--env", "MY_TOKEN=1", "--", "true"], "looks like a secret"),
        (["show", "job-1"], "There is no job 'job-1'"),
        (["show", "job-20260101-abcdef"], "There is no job 'job-20260101-abcdef'"),
    ]:
        error = CliRunner().invoke(command, arguments).exception
        assert told in str(error), error
    assert "write NAME=VALUE" in CliRunner().invoke(command, ["run", "--env", "X", "--", "true"]).output
