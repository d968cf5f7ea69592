"""Endpoints of somebody else's at the real controller: states, silence, recovery, and that nothing is ever started."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from modelops_dagster.clients.endpoints import (
    EndpointRecord,
    ExternalBackend,
    MachineBackend,
    ProcessBackend,
    RecordStore,
)
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.lifecycle import RestartPolicy
from modelops_dagster.services.controller.reconcile import Controller
from tests.fakes.launcher import FakeLauncher
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.stack import Stack


def spec_of(url: str, **api: str) -> EndpointSpec:
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    return EndpointSpec.model_validate(
        {
            "name": "theirs",
            "deployment": {"type": "none"},
            "target": {"api_endpoint": {"url": url, "model_id": MODEL, **api}},
            "healthcheck": {"path": "/health", "port": port, "periodSeconds": 1, "timeoutSeconds": 1},
        }
    )


def test_it_runs_is_adopted_and_goes_without_a_process(tmp_path: Path):
    stack = Stack(tmp_path).up()
    try:
        with OpenAIServer().in_thread() as server:
            stack.client.apply(spec_of(server.url + "/chat/completions"))
            status = stack.client.wait_ready("theirs", 30)
            assert (status.state, status.url, status.pid) == (EndpointState.RUNNING, server.url, None)
            assert stack.engines() == {}
            assert "it answers" in stack.client.logs("theirs")
            stack.kill()
            stack.up()
            again = stack.client.get("theirs")
            assert again is not None
            assert (again.state, again.url) == (EndpointState.RUNNING, server.url)
            stack.client.stop("theirs")
            stack.client.wait_stopped("theirs")
            stack.client.start("theirs")
            assert stack.client.wait_ready("theirs", 30).url == server.url
            stack.client.delete("theirs")
            stack.client.wait_deleted("theirs")
    finally:
        stack.down()


def test_a_key_that_is_not_there_and_one_that_is_refused(tmp_path: Path):
    stack = Stack(tmp_path).up()
    try:
        with OpenAIServer(api_key="sk-right").in_thread() as server:
            stack.client.apply(spec_of(server.url, api_key_name="THEIR_API_KEY"))
            status = stack.client.wait_ready("theirs", 30)
            assert status.state is EndpointState.BUILDING_FAILED
            assert "`modelops routes credential THEIR_API_KEY`" in status.message
            folder = stack.home / "secrets" / "credentials"
            folder.mkdir(parents=True)
            (folder / "THEIR_API_KEY").write_text("sk-wrong")
            stack.client.start("theirs")
            status = stack.client.wait_ready("theirs", 30)
            assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "bad_config")
            assert "it refuses the key. Correct it, then `modelops endpoints start theirs`." in status.message
            (folder / "THEIR_API_KEY").write_text("sk-right")
            stack.client.start("theirs")
            assert stack.client.wait_ready("theirs", 30).url == server.url
    finally:
        stack.down()


def test_silence_is_a_condition_and_a_refusal_is_a_failure(tmp_path: Path):
    """The same controller in this process, asking ten times a second."""

    async def run() -> None:
        processes = ProcessBackend(tmp_path, FakeLauncher(), grace_s=0.2)
        controller = Controller(
            RecordStore(tmp_path / "endpoints"),
            MachineBackend(processes, ExternalBackend(tmp_path / "logs", lambda _: None)),
            lambda *_: ("crash", "It ended."),
            RestartPolicy(max_restarts=1, first_delay_s=0.05, max_delay_s=0.3),
            tick_s=0.02,
            ask_every_s=0.05,
        )
        server = OpenAIServer()

        def record() -> EndpointRecord:
            return controller.ledger.get("theirs")

        def state() -> EndpointState:
            return record().state

        async with server.running():
            await controller.open()
            try:
                controller.wishes.apply(spec_of(server.url))
                await until(lambda: state() is EndpointState.RUNNING)
                server.offers = frozenset()
                await until(lambda: record().condition == "Unreachable")
                assert (state(), record().status().url) == (EndpointState.RUNNING, None)
                assert "/health answered 404. It is asked again." in record().message
                server.offers = frozenset({"health", "completions"})
                await until(lambda: record().condition is None)
                assert record().status().url == server.url
                server.api_key = "now it wants one"
                await until(lambda: state() in (EndpointState.RUNTIME_ERROR, EndpointState.DEPLOY_FAILED))
                assert "it refuses the key" in record().message
                assert "It is asked again in 0.3 s." in record().message
                server.api_key = None
                await until(lambda: state() is EndpointState.RUNNING)
                assert record().message == ""
            finally:
                await controller.close(keep_engines=False)

    async def until(holds: Callable[[], bool]) -> None:
        for _ in range(1500):
            if holds():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("it did not happen in time")

    asyncio.run(run())
