"""What `modelops demo` and `up` refuse at once, before minutes are spent on engines. The demo itself is `tests/e2e`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelops_dagster.cli.output import program
from tests.fakes.hub import running_hub


def modelops(tmp_path: Path, *words: str, **environ: str) -> str:
    """What a refused command says, on one line; it has installed nothing."""
    free = {f"MODELOPS_{name}_PORT": "0" for name in ("DAGSTER", "GATEWAY", "CONTROLLER")}
    home = {"HOME": str(tmp_path), "MODELOPS_HOME": str(tmp_path / "state"), "PATH": os.environ["PATH"]}
    code = "from modelops_dagster.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=home | free | environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".cache" / "modelops").exists(), "something was installed"
    assert not (tmp_path / "state" / "run" / "stack.json").exists(), "something was started"
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["demo", "up"])
def test_an_unknown_policy(tmp_path: Path, command: str):
    assert "there is no policy 'nosuch'" in modelops(tmp_path, command, "--policy", "nosuch")


def test_a_hub_without_the_repository(tmp_path: Path):
    with running_hub(tmp_path / "hub") as server:
        said = modelops(tmp_path, "demo", "--hub", server.url, "--repo-id", "acme/none")
    assert said.startswith(f"modelops: {server.url} has no model acme/none")


def test_a_port_that_somebody_else_holds(tmp_path: Path):
    with running_hub(tmp_path / "hub") as server:
        said = modelops(tmp_path, "demo", MODELOPS_DAGSTER_PORT=str(server.port))
    assert f"port {server.port} for the Dagster UI is already in use by" in said


def test_a_home_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    said = modelops(tmp_path, "demo", MODELOPS_HOME=str(tmp_path / "file" / "state"))
    assert "cannot hold the platform's state (Not a directory): set MODELOPS_HOME" in said


def test_printed_commands_are_found_by_the_shell_that_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    environment = Path(sys.executable).parent
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program() == str(environment / "modelops")
    monkeypatch.chdir(environment.parent)
    assert program() == f"{environment.name}/modelops"
    (tmp_path / "modelops").write_text("#!/bin/sh\n")
    (tmp_path / "modelops").chmod(0o755)
    assert program() == "modelops"
