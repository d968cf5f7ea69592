"""Real engines under the controller: parts of them are killed, they sleep, and they wake."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.domain.endpoints import AutoscaleConfig, AutoscaleTarget, EndpointSpec, EndpointStatus
from modelops_dagster.settings import Settings
from tests.fakes.zoo import PATIENCE_S, Zoo, zoo

pytestmark = [pytest.mark.engine, pytest.mark.long]
KILLS = {"transformers": 6, "vllm-cpu": 3, "vllm": 2}
COOLDOWN_S = 2


@pytest.fixture(scope="module")
def place(settings: Settings, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    del model  # made before the controller starts
    with zoo(tmp_path_factory.mktemp("kills"), settings) as place:
        yield place


def members(session: int) -> list[int]:
    """The processes of a session that run; one that ended and was not asked for its exit status yet does not."""
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdecimal()]
    found = [stat for pid in pids if (stat := processes.read_stat(pid)) is not None and stat.session == session]
    return [stat.pid for stat in found if stat.state not in "ZX"]


def shown(pid: int) -> str:
    """What is left there, for the failure's text."""
    command = (Path("/proc") / str(pid) / "cmdline").read_text().replace("\0", " ")
    return f"{processes.read_stat(pid)} {command[:160]}"


def answers(status: EndpointStatus) -> bool:
    body = {"model": status.spec.served_model_name, "prompt": "The capital of France is", "max_tokens": 4}
    return httpx.post(f"{status.url}/completions", json=body, timeout=120, trust_env=False).is_success


def wait(place: Zoo, name: str, state: str) -> EndpointStatus:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        status = place.client.get(name)
        assert status is not None
        if status.failed:  # killed before it was ready
            place.client.start(name)
        elif status.state == state and (state != "Running" or status.url is not None):
            return status
        time.sleep(0.2)
    raise AssertionError(f"{name} is not {state}: {place.client.get(name)}")


@pytest.mark.parametrize("engine", ["transformers", "vllm-cpu", pytest.param("vllm", marks=pytest.mark.gpu)])
def test_a_killed_part_ends_the_whole_engine_and_another_takes_its_place(place: Zoo, model: Path, engine: str):
    place.registry.install(engine, print)
    name, dice = f"kills-{engine}", random.Random(len(engine))  # noqa: S311 - which process ends, no secret
    spec = EndpointSpec(
        name=name,
        checkpoint=str(model),
        checkpoint_digest="sha256:kills",
        engine=engine,
        served_model_name="kills",
        max_context=512,
        gpus=int(engine == "vllm"),
        scale_to_zero=True,
        autoscale_config=AutoscaleConfig(
            targets=(AutoscaleTarget(metric="concurrency", target=1),), cooldown_period=3600
        ),
    )
    place.client.apply(spec)
    sessions: set[int] = set()
    for _ in range(KILLS[engine]):
        status = wait(place, name, "Running")
        assert status.pid is not None
        assert answers(status)
        sessions.add(status.pid)
        victim = dice.choice(members(status.pid))
        print(f"kill {shown(victim)}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        died = time.monotonic()
        while place.client.get(name) == status and time.monotonic() - died < 60:
            time.sleep(0.1)
    status = wait(place, name, "Running")
    assert answers(status)
    assert status.pid not in sessions, "no kill was noticed"
    assert [shown(pid) for session in sessions for pid in members(session)] == []

    quick = AutoscaleConfig(targets=(AutoscaleTarget(metric="concurrency", target=1),), cooldown_period=COOLDOWN_S)
    place.client.apply(spec.model_copy(update={"autoscale_config": quick}))
    assert status.pid is not None
    wait(place, name, "Sleeping")
    deadline = time.monotonic() + 60
    while members(status.pid) and time.monotonic() < deadline:  # it says so while the processes are being ended
        time.sleep(0.2)
    assert [shown(pid) for pid in members(status.pid)] == []
    place.client.apply(spec)
    woken = wait(place, name, "Running")
    assert answers(woken)
    place.client.delete(name, name)
    place.client.wait_deleted(name)
    assert woken.pid is not None
    assert [shown(pid) for pid in members(woken.pid)] == []
