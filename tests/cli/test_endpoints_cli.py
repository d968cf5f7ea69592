"""`modelops endpoints` against the real controller program."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.stack import Stack

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    yield stack
    stack.down()


def modelops(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.modelops("endpoints", *arguments)


def test_one_endpoint_by_command(stack: Stack, tmp_path: Path):
    done = modelops(stack, "list")
    assert (done.returncode, done.stderr.startswith("modelops: No controller has run for")) == (2, True)
    stack.up()
    assert "No endpoints yet" in modelops(stack, "list").stdout
    stack.ready("--child")

    done = modelops(stack, "list")
    assert done.returncode == 0
    assert "small@abc" in done.stdout
    (listed,) = json.loads(modelops(stack, "list", "--json").stdout)["endpoints"]
    assert listed["state"] == "Running"
    shown = modelops(stack, "show", "small").stdout
    assert listed["url"] in shown
    assert "fake 1.2.3" in shown
    assert "INFO: listening" in modelops(stack, "logs", "small", "--tail", "50").stdout

    done = modelops(stack, "stop", "small")
    assert (done.returncode, done.stdout) == (0, "small: Stopped\n")
    assert stack.engines() == {}
    done = modelops(stack, "start", "small", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "Running")
    done = modelops(stack, "restart", "small")
    assert done.returncode == 0
    assert done.stdout.startswith("small: Running http://127.0.0.1:")

    done = modelops(stack, "delete", "small", "--confirm", "smal")
    assert (done.returncode, "must be confirmed with its name" in done.stderr) == (2, True)
    done = modelops(stack, "delete", "small", "--confirm", "small")
    assert (done.returncode, done.stdout) == (0, "small: deleted\n")


def test_mistakes_are_one_sentence(stack: Stack):
    if stack.program is None:
        stack.up()
    for arguments in (("show", "nobody"), ("stop", "nobody"), ("logs", "nobody"), ("start", "../etc")):
        done = modelops(stack, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("modelops: There is no endpoint ")
        assert done.stderr.count("\n") == 1
    assert modelops(stack, "logs", "nobody", "--follow", "--json").returncode == 2


def test_failed_start_exits_with_one_and_says_why(stack: Stack):
    if stack.program is None:
        stack.up()
    stack.client.apply(stack.spec("--fail-line", OUT_OF_MEMORY, name="broken"))
    stack.client.wait_ready("broken", 60)
    done = modelops(stack, "start", "broken")
    assert done.returncode == 1
    assert "out_of_memory" in done.stdout
    shown = modelops(stack, "show", "broken").stdout
    assert "DeployFailed" in shown
    assert OUT_OF_MEMORY in shown


def test_followed_log_goes_on_over_a_restart_until_the_endpoint_is_gone(stack: Stack):
    if stack.program is None:
        stack.up()
    stack.ready(name="followed")
    follower = subprocess.Popen(
        [sys.executable, "-m", "modelops_dagster.cli", "endpoints", "logs", "followed", "--follow", "--tail", "1"],
        env={**os.environ, **stack.settings.environ(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline().startswith("INFO: ")
    stack.client.restart("followed")
    for line in follower.stdout:
        if line == "INFO: loading\n":
            break
    stack.client.wait_ready("followed", 60)
    stack.client.delete("followed")
    assert follower.wait(timeout=20) == 0
