"""The real controller as a program of its own, with processes for engines: what a kill leaves, what a stop leaves."""

import json
import os
import signal
import socket
import threading
import time

import httpx
import pytest

from modelops_dagster.client import ModelOpsClient, token_path
from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec, NoSuchEndpoint, NotRunning
from modelops_dagster.services.controller.server import bind
from tests.fakes.stack import Stack, Stranger, wait_until

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


def kill_pid(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# the life of one endpoint


def test_from_nothing_to_running_to_stopped_to_deleted(stack: Stack):
    stack.up()
    assert stack.client.get("small") is None
    assert stack.client.apply(stack.spec("--child", "--load-s", "1.5")).state is EndpointState.BUILDING
    seen: list[EndpointState] = []
    status = stack.client.wait_ready("small", 60, lambda s: seen.append(s.state))
    assert seen[-1] is EndpointState.RUNNING
    assert EndpointState.STARTUP in seen
    assert status.url is not None
    assert status.start_seconds is not None
    assert status.start_seconds > 1.5
    assert (status.engine_version, status.restarts, status.message) == ("1.2.3", 0, "")
    models = httpx.get(f"{status.url}/models", trust_env=False).json()
    assert models["data"][0]["id"] == "small@abc"
    assert [s.spec.name for s in stack.client.list()] == ["small"]
    assert "INFO: listening" in stack.client.logs("small", 10)
    assert [e.manifest.name for e in stack.client.engines()] == ["fake"]

    assert len(stack.engines()) == 2
    stack.client.stop("small")
    stack.client.wait_stopped("small", 60)
    assert stack.engines() == {}
    stack.client.start("small")
    assert stack.client.wait_ready("small", 60).pid != status.pid

    with pytest.raises(InvalidSpec, match="must be confirmed") as caught:
        stack.client.delete("small", "smal")
    assert caught.value.field == "confirm"
    stack.client.delete("small")
    stack.client.wait_deleted("small", 60)
    assert stack.engines() == {}
    assert not (stack.home / "controller" / "logs" / "small").exists()
    with pytest.raises(NoSuchEndpoint, match="There is no endpoint 'small'"):
        stack.client.stop("small")


def test_same_spec_changes_nothing_another_one_replaces_the_engine(stack: Stack):
    stack.up()
    first = stack.ready("--child")
    assert stack.client.apply(stack.spec("--child")) == first
    updating = stack.client.apply(stack.spec("--child", "--load-s", "0.1"))
    assert (updating.state, updating.condition, updating.url) == (EndpointState.BUILDING, "Updating", None)
    second = stack.client.wait_ready("small", 60)
    assert second.pid != first.pid
    assert second.condition is None
    assert len(stack.engines()) == 2
    stack.client.restart("small")
    assert stack.client.wait_ready("small", 60).pid not in (first.pid, second.pid)
    assert len(stack.engines()) == 2


@pytest.mark.parametrize(
    ("engine_args", "fields", "reason", "message"),
    [
        (["--fail-line", OUT_OF_MEMORY], {}, "out_of_memory", "ended with exit code 1 before it was"),
        (["--hang", "--child"], {"start_timeout_s": 0.5}, "timeout", "was not ready within 0.5 s"),
        (["--wrong-name"], {"start_timeout_s": 0.5}, "bad_config", "it answers as somebody-else and not as small@abc"),
        (["--die-after-s", "0", "--load-s", "0.1"], {"start_timeout_s": 9}, "crash", "ended with exit code 1"),
    ],
)
def test_engine_that_never_gets_ready_fails_with_its_reason(
    stack: Stack, engine_args: list[str], fields: dict[str, object], reason: str, message: str
):
    stack.up()
    stack.client.apply(stack.spec(*engine_args, **fields))
    status = stack.client.wait_ready("small", 60)
    assert status.failed
    assert status.reason == reason
    assert message in status.message
    assert "`modelops endpoints logs small` shows the rest." in status.message
    assert stack.engines() == {}
    if reason == "out_of_memory":
        assert status.state is EndpointState.DEPLOY_FAILED
        assert OUT_OF_MEMORY in status.log_tail
        stack.client.apply(stack.spec(*engine_args))  # asked again for what failed: it is tried again
        assert stack.client.wait_ready("small", 60).since > status.since


def test_missing_engine_and_missing_checkpoint_are_build_failures(stack: Stack):
    stack.up()
    stack.client.apply(stack.spec(engine="vllm"))
    status = stack.client.wait_ready("small", 60)
    assert (status.state, status.reason) == (EndpointState.BUILDING_FAILED, "engine_missing")
    assert status.message == "There is no engine 'vllm'; the engines are: fake."
    stack.client.apply(stack.spec(checkpoint="/no/such/checkpoint"))
    status = stack.client.wait_ready("small", 60)
    assert (status.state, status.reason) == (EndpointState.BUILDING_FAILED, "bad_config")


def test_engine_that_keeps_dying_is_restarted_then_given_up(stack: Stack):
    stack.up()
    stack.client.apply(stack.spec("--child", "--die-after-asked-s", "0.7"))
    status = wait_until(lambda: stack.client.get("small"), lambda s: s and s.failed)
    assert status is not None
    assert (status.state, status.reason, status.restarts) == (EndpointState.RUNTIME_ERROR, "crash", 2)
    assert "ended with exit code 1 (crash)." in status.message
    assert "it died" in status.message
    assert status.log_tail.endswith("ERROR: it died")
    assert stack.engines() == {}


def test_killed_engine_takes_its_worker_along_and_comes_back(stack: Stack):
    stack.up()
    before = stack.ready("--child", "--ignore-sigterm")
    old = set(wait_until(stack.engines, lambda pids: len(pids) == 2))
    kill_pid(before.pid)
    seen = wait_until(lambda: stack.client.get("small"), lambda s: s and not s.url)
    assert seen is not None
    assert (seen.state, seen.condition) == (EndpointState.RUNNING, "Unreachable"), "its worker takes a second to end"
    after = wait_until(lambda: stack.client.get("small"), lambda s: s and s.url and s.pid != before.pid)
    assert after is not None
    assert (after.restarts, after.condition, after.message) == (1, None, "")
    assert not old & set(stack.engines())


def test_port_that_another_program_takes_is_left_to_it(stack: Stack):
    """The stranger says 200 to everything; the engine is started again on another port."""
    stack.up()
    stack.client.apply(stack.spec("--load-s", "3"))
    record = stack.home / "controller" / "endpoints" / "small.json"
    port = wait_until(lambda: json.loads(record.read_text())["replica"], bool)["port"]
    with Stranger(port):
        status = wait_until(lambda: stack.client.get("small"), lambda s: s and (s.message or s.url))
        assert status is not None
        assert f"Port {port} was taken by" in status.message
        status = stack.client.wait_ready("small", 60)
    assert status.state is EndpointState.RUNNING
    assert status.url != f"http://127.0.0.1:{port}/v1"
    assert len(stack.engines()) == 1


# the life of the controller


def test_killed_controller_leaves_engines_and_its_successor_adopts_them(stack: Stack):
    stack.up()
    running = stack.ready("--child")
    stack.client.apply(stack.spec("--load-s", "2.5", name="loading"))
    wait_until(lambda: stack.state("loading"), lambda s: s is EndpointState.STARTUP)
    loading = stack.client.get("loading")
    stack.kill()
    with pytest.raises(NotRunning, match="start it with `modelops up`"):
        stack.client.get("small")
    assert httpx.get(f"{running.url}/models", trust_env=False).status_code == 200
    stack.up()
    assert stack.client.get("small") == running
    assert loading is not None
    assert stack.client.wait_ready("loading", 60).pid == loading.pid
    assert len(stack.engines()) == 3
    kill_pid(running.pid)  # an adopted engine is watched like any other
    after = wait_until(lambda: stack.client.get("small"), lambda s: s and s.url and s.pid != running.pid)
    assert after is not None
    assert after.restarts == 1


def test_wait_ready_survives_a_controller_that_is_restarted(stack: Stack):
    stack.up()
    stack.client.apply(stack.spec("--load-s", "3"))
    wait_until(lambda: stack.state(), lambda s: s is EndpointState.STARTUP)
    found: list[EndpointStatus] = []
    waiter = threading.Thread(target=lambda: found.append(stack.client.wait_ready("small", 30)))
    waiter.start()
    stack.kill()
    time.sleep(0.5)
    program = stack.run()
    waiter.join(timeout=30)
    stack.program = program
    assert [s.state for s in found] == [EndpointState.RUNNING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_controller_ends_its_engines_and_brings_them_back(stack: Stack, number: signal.Signals):
    stack.up()
    stack.ready("--child", "--ignore-sigterm")
    stack.ready(name="other")
    stack.client.stop("other")
    stack.client.wait_stopped("other", 60)
    assert stack.program is not None
    stack.program.send_signal(number)
    assert stack.program.wait(timeout=30) == 0
    assert stack.engines() == {}
    stack.up()
    assert stack.client.wait_ready("small", 60).state is EndpointState.RUNNING
    assert stack.state("other") is EndpointState.STOPPED


def test_keep_engines_leaves_them_running(stack: Stack):
    stack.up("--keep-engines")
    before = stack.ready("--child")
    assert stack.terminate() == 0
    assert len(stack.engines()) == 2
    stack.up()
    assert stack.client.get("small") == before
    assert stack.terminate() == 0
    assert stack.engines() == {}


def test_second_controller_on_one_home_is_refused(stack: Stack):
    stack.up()
    second = stack.run()
    assert second.wait(timeout=30) == 2
    assert stack.program is not None
    assert f"Another controller (pid {stack.program.pid}) owns {stack.home}" in stack.log.read_text()
    stack.kill()  # what a kill leaves is taken over
    stack.up()


def test_taken_port_names_who_listens(stack: Stack):
    with Stranger(stack.port):
        assert stack.run().wait(timeout=30) == 2
        (line,) = [x for x in stack.log.read_text().splitlines() if x.startswith("controller: ")]
        assert f"Port {stack.port} on 127.0.0.1 is taken by" in line
        assert f"(pid {os.getpid()})" in line
        token_path(stack.home).parent.mkdir(parents=True)
        token_path(stack.home).write_text("key")
        with pytest.raises(NotRunning, match="Another program answers at"):
            ModelOpsClient.from_settings(stack.settings).list()


def test_small_answers_do_not_wait_for_an_acknowledgement():
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP, "what asyncio asks before it turns Nagle's algorithm off"


def test_lost_record_leaves_no_engine_behind(stack: Stack):
    stack.up()
    stack.ready("--child")
    stack.kill()
    (stack.home / "controller" / "endpoints" / "small.json").write_text('{"half"')
    stack.up()
    assert stack.client.list() == ()
    assert stack.engines() == {}
    assert "Ended an engine of small that no record claims" in stack.log.read_text()


def test_client_waits_no_longer_than_it_was_told(stack: Stack):
    stack.up()
    stack.client.apply(stack.spec("--hang"))
    with pytest.raises(EndpointFailed, match="is not ready after 1 s, its state is Startup"):
        stack.client.wait_ready("small", 1)
