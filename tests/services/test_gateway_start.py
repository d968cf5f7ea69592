"""A gateway that starts, one that must not serve, and what a whole run leaves behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from modelops_dagster.clients.gateway import GatewayClient
from tests.fakes.backend import FakeBackend
from tests.fakes.stack import wait_until
from tests.services.gateway_process import ALIAS, PROMPT, READY, Gateway, error, target


def run_once(home: Path, port: int) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MODELOPS_HOME": str(home), "MODELOPS_GATEWAY_PORT": str(port)}
    command = [sys.executable, "-m", "modelops_dagster.services.gateway"]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_somebody_holds_is_one_sentence_that_names_them(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = run_once(tmp_path, taken.getsockname()[1])
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert f"pid {os.getpid()}" in ended.stderr
    assert "MODELOPS_GATEWAY_PORT" in ended.stderr


BROKEN = """
from modelops_dagster.services.gateway import config, __main__ as program
whole = config.litellm_config
def broken():
    it = whole()
    {damage}
    return it
config.litellm_config = broken
program.main()
"""


def test_a_gateway_whose_plugin_cannot_be_loaded_does_not_serve(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, BROKEN.format(damage="it['general_settings']['custom_auth'] = 'no.such.thing'"))
    assert gateway.process.wait(120) == 2
    log = gateway.log.read_text()
    assert "nothing is served" in log.splitlines()[-1]
    assert "no.such" in log


@pytest.mark.parametrize(
    "damage", ["del it['general_settings']['custom_auth']", "it['litellm_settings']['callbacks'] = []"]
)
def test_a_gateway_without_its_plugin_refuses_every_call(tmp_path: Path, damage: str) -> None:
    gateway = Gateway(tmp_path, BROKEN.format(damage=damage))
    deadline = time.monotonic() + 120
    while not (found := READY.search(gateway.log.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    gateway.url = found[1]
    try:
        time.sleep(0.3)
        operator = (tmp_path / "secrets/gateway_operator_key").read_text().strip()
        for key in (gateway.key(), operator, None):
            for path in ("/v1/chat/completions", "/key/generate", "/health"):
                assert error(gateway.post(key, path=path)) == (503, "gateway_not_ready"), path
        assert httpx.get(f"{gateway.url}/health/liveliness").status_code == 503
        assert GatewayClient(gateway.url).running() is False
    finally:
        gateway.stop()


def test_a_whole_run_leaves_no_key_and_no_prompt_anywhere(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.wait_ready()
    operator = (tmp_path / "secrets/gateway_operator_key").read_text().strip()
    with FakeBackend("alpha") as alpha:
        dark = target(alpha, "shadow", name="dark").model_copy(update={"mirror_percent": 100})
        gateway.put(ALIAS, target(alpha), dark)
        key = gateway.key("preview")
        limited, _ = gateway.keys.create("limited", rpm=1, tpm=10, budget_usd_per_day=1, team="ml")
        for more in (
            {},
            {"stream": True},
            {"tags": ["x"]},
            {"api_base": PROMPT},
            {"messages": PROMPT},
            {"max_tokens": -1},
        ):
            gateway.post(key, body=more)
        gateway.post("sk-mo-wrong")
        assert [gateway.post(limited).status_code for _ in range(2)] == [200, 429]
        client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)
        client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch")
        gateway.post(operator)
        alpha.fail_status = 500
        gateway.post(key)
        gateway.post(key, path="/v1/messages", body={"max_tokens": 5})
        alpha.fail_status = None
        last = gateway.post(key)
    assert gateway.stop() in (0, -signal.SIGTERM)
    assert len(gateway.rows(last.headers["x-litellm-call-id"])) == 1, "the last rows are written on the way out"
    assert not list((tmp_path / "gateway/workers").iterdir())
    allowed = tmp_path / "secrets/gateway_operator_key"
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != allowed:
            content = path.read_bytes()
            assert not [s for s in (key, limited, operator, PROMPT, "sk-mo-wrong") if s.encode() in content], path
    rows = gateway.logged()
    assert len(rows) > 12
    assert not [s for s in (key, limited, operator, PROMPT, "sk-mo-wrong") if s in str(rows)], "compressed in the files"
    log = gateway.log.read_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 20, log


def test_a_gateway_that_is_killed_loses_a_second_of_log_at_most(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.wait_ready()
    with FakeBackend("alpha") as alpha:
        gateway.put(ALIAS, target(alpha))
        key = gateway.key()
        answers = [gateway.post(key) for _ in range(5)]
        time.sleep(1.0)
        gateway.process.kill()
        gateway.process.wait()
        assert [len(gateway.rows(a.headers["x-litellm-call-id"])) for a in answers] == [1] * 5
        again = Gateway(tmp_path)
        again.wait_ready()
        assert again.post(key).status_code == 200, "routes and keys are where they were"
        GatewayClient(again.url).visible(ALIAS, 1, timeout_s=5)
        again.stop()


def test_calls_under_way_are_finished_when_the_gateway_is_told_to_end_but_not_for_ever(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, settings={"MODELOPS_GATEWAY_DRAIN_S": "5"})
    gateway.wait_ready()
    answers = {}
    with FakeBackend("alpha", token_delay_s=0.4) as alpha, FakeBackend("beta", token_delay_s=60) as beta:
        gateway.put(ALIAS, target(alpha))
        gateway.put("acme/endless", target(beta))
        key = gateway.key()

        def stream(alias: str) -> None:
            try:
                answers[alias] = gateway.post(key, alias, body={"stream": True}).text
            except httpx.TransportError as error:
                answers[alias] = type(error).__name__

        callers = [threading.Thread(target=stream, args=(alias,)) for alias in (ALIAS, "acme/endless")]
        for caller in callers:
            caller.start()
        wait_until(lambda: alpha.bodies and beta.bodies)
        gateway.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.join(30)
        gateway.process.wait(20)
    assert answers[ALIAS].rstrip().endswith("[DONE]")
    assert "[DONE]" not in answers["acme/endless"]
