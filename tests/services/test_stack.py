"""The programs of one machine: what is refused before any of them starts. Starting them is `tests/e2e`."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.processes import ProcessIdentity, identify, is_alive, stop_group
from modelops_dagster.domain.errors import InvalidSpec, PortTaken, UserError
from modelops_dagster.services.stack import Stack
from modelops_dagster.settings import Settings

PORTS = ("DAGSTER", "GATEWAY", "CONTROLLER")


def settings(home: Path, **environ: str) -> Settings:
    free = {f"MODELOPS_{name}_PORT": "0" for name in PORTS}
    return Settings.load({"MODELOPS_HOME": str(home), **free, **environ})


def silent(_name: str, _line: str) -> None:
    """Nobody listens."""


def test_two_platforms_never_share_a_home(tmp_path: Path):
    refused = pytest.raises(UserError, match=rf"already runs from {tmp_path} \(pid {os.getpid()}\)")
    with Stack(settings(tmp_path), echo=silent), refused:
        Stack(settings(tmp_path), echo=silent)
    Stack(settings(tmp_path), echo=silent).stop()


def test_a_refused_platform_does_not_keep_the_home(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(PortTaken, match=f"port {port} for the Dagster UI is already in use by .*MODELOPS_DAGSTER"):
            Stack(settings(tmp_path, MODELOPS_DAGSTER_PORT=port), echo=silent)
    Stack(settings(tmp_path), echo=silent).stop()


def test_no_two_programs_are_given_one_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Chance may draw a port again before the program that it was given to listens there."""
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in (*PORTS, "CODE")]
        found = [server.getsockname()[1] for server in servers]
    drawn = (port for port in found for _ in range(2))
    monkeypatch.setattr(processes.random, "randint", lambda low, high: next(drawn))
    with Stack(settings(tmp_path, MODELOPS_DAGSTER_PORT="0"), echo=silent) as stack:
        ports = [getattr(stack.settings, f"{name.lower()}_port") for name in PORTS]
    assert sorted(ports) == sorted(found[:-1])


def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path):
    home = tmp_path / "home"
    home.write_text("")
    with pytest.raises(UserError, match=r"home cannot hold the platform's state \(.*\): set MODELOPS_HOME"):
        Stack(settings(home), echo=silent)


def test_an_unknown_policy_is_told_before_anything_is_made(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="there is no policy 'nosuch'"):
        Stack(settings(tmp_path / "home", MODELOPS_POLICY="nosuch"), echo=silent)
    assert not (tmp_path / "home").exists()


def test_a_relative_hub_folder_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with Stack(settings(tmp_path / "home"), echo=silent, hub_root=Path("models")) as stack:
        hub = next(p for p in stack.programs() if p.name == "hub")
    assert str(tmp_path / "models") in hub.argv, "it runs in the home, where the words mean another folder"


@pytest.fixture
def left() -> Iterator[ProcessIdentity]:
    """A program in a session of its own, as a killed platform leaves it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    identity = identify(process.pid)
    assert identity is not None
    yield identity
    stop_group(identity, grace_s=0)
    process.wait()


def test_what_a_killed_platform_left_running_is_stopped(tmp_path: Path, left: ProcessIdentity):
    dead = left.model_copy(update={"start_ticks": 1})
    (tmp_path / "run").mkdir()
    record = {"owner": dead.model_dump(), "settings": {}, "programs": {"hub": left.model_dump()}}
    (tmp_path / "run" / "stack.json").write_text(json.dumps(record))
    said: list[str] = []
    with Stack(settings(tmp_path), echo=lambda _name, line: said.append(line)):
        assert said == ["stopping hub, left behind by a run that was killed"]
        assert not is_alive(left)


def test_the_home_is_free_again_once_its_owner_is_killed(tmp_path: Path):
    code = (
        "import sys, time; from modelops_dagster.services.stack import Stack; "
        "from modelops_dagster.settings import Settings; "
        "stack = Stack(Settings.load(), echo=print); print('held', flush=True); time.sleep(600)"
    )
    environ = {**os.environ, "MODELOPS_HOME": str(tmp_path), **{f"MODELOPS_{name}_PORT": "0" for name in PORTS}}
    owner = subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"\(pid {owner.pid}\)"):
        Stack(settings(tmp_path), echo=silent)
    owner.kill()
    owner.communicate()
    Stack(settings(tmp_path), echo=silent).stop()
