"""The gateway as clients meet it: the real LiteLLM proxy in a process of its own, engines that answer on loopback."""

import asyncio
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx
import openai
import pytest

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec, NotRunning, PortTaken
from modelops_dagster.domain.gateway import Route, RouteTarget, with_targets
from tests.fakes.backend import FakeBackend

PROMPT = "a-prompt-that-nobody-may-find-again"
ALIAS = "acme/SmolLM2-135M-Instruct"
READY = re.compile(r"gateway: ready at (http://\S+)/v1 after ([0-9.]+) s")


class Gateway:
    """One gateway process and the stores it follows."""

    def __init__(
        self, home: Path, code: str = "from modelops_dagster.services.gateway.__main__ import main; main()"
    ) -> None:
        self.home = home
        self.log = home / "gateway.log"
        self.routes = RouteStore(home / "gateway")
        self.keys = KeyStore(home / "gateway")
        self.url = ""
        self.given: list[str] = []
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MODELOPS_", "LITELLM_"))}
        # a database in the operator's shell is none of the gateway's
        environ |= {"MODELOPS_HOME": str(home), "MODELOPS_GATEWAY_PORT": "0", "DATABASE_URL": "postgresql://x/y"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=environ, stdout=log, stderr=subprocess.STDOUT, cwd=home
            )

    def wait_ready(self) -> float:
        """Seconds the gateway says it took."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = READY.search(self.log.read_text())
            if found:
                self.url = found[1]
                GatewayClient(self.url).ready(10)
                return float(found[2])
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def key(self, *tags: str, models: tuple[str, ...] = ()) -> str:
        key, _ = self.keys.create("tester", tags=tags, models=models)
        self.given.append(key)
        return key

    def put(self, alias: str, *targets: RouteTarget) -> Route:
        old = self.routes.get(alias)
        made = with_targets(old, alias, targets, at=datetime.now(UTC))
        written = self.routes.put(made, old.version if old else 0)
        GatewayClient(self.url).visible(alias, written.version)
        return written

    def post(
        self, key: str | None, alias: str = ALIAS, path: str = "/v1/chat/completions", **more: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        content = (
            {"prompt": PROMPT} if path == "/v1/completions" else {"messages": [{"role": "user", "content": PROMPT}]}
        )
        body = {"model": alias, **content, **more.pop("body", {})}
        return httpx.post(f"{self.url}{path}", headers=headers | more.pop("headers", {}), json=body, timeout=30)

    def rows(self, call_id: str) -> list[dict[str, Any]]:
        """The logged rows of one call, as soon as there are any."""
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            lines = [
                line for f in (self.home / "gateway/calls").rglob("*.jsonl") for line in f.read_text().splitlines()
            ]
            found = [row for row in map(json.loads, lines) if row["call_id"] == call_id]
            if found:
                return found
            time.sleep(0.1)
        return []

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def target(backend: FakeBackend, *tags: str, name: str = "", weight: int = 1) -> RouteTarget:
    name = name or backend.name
    commit = (name.encode().hex() + "0" * 40)[:40]
    return RouteTarget(
        endpoint=name, url=backend.url, served_model_name=ALIAS, commit_hash=commit, weight=weight, tags=tags
    )


@pytest.fixture(scope="session")
def backends() -> Iterator[tuple[FakeBackend, FakeBackend]]:
    with FakeBackend("alpha") as alpha, FakeBackend("beta") as beta:
        yield alpha, beta


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, backends: tuple[FakeBackend, FakeBackend]) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"))
    running.wait_ready()
    alpha, beta = backends
    running.put(ALIAS, target(alpha), target(beta, "preview"), target(beta, "shadow", name="dark", weight=50))
    running.put("acme/new", target(beta, "preview"))
    running.put("acme/dark", target(beta, "shadow", name="dark"))
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def alpha(backends: tuple[FakeBackend, FakeBackend]) -> Iterator[FakeBackend]:
    yield backends[0]
    engine = backends[0]
    engine.fail_status, engine.break_stream_after, engine.token_delay_s = None, None, 0.0


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# --- who may call what ----------------------------------------------------------------------------------------------


def test_a_call_without_a_key_or_with_a_wrong_one_is_401(gateway: Gateway) -> None:
    assert error(gateway.post(None)) == (401, "missing_api_key")
    assert error(gateway.post("sk-mo-wrong")) == (401, "invalid_api_key")
    for path in ("/v1/models", "/model/info", "/", "/key/generate", "/modelops/routes", "/health", "/docs"):
        assert httpx.get(f"{gateway.url}{path}").status_code == 401, path


def test_a_key_calls_its_models_and_no_other(gateway: Gateway) -> None:
    limited = gateway.key("preview", models=("acme/new",))
    assert gateway.post(limited, "acme/new").status_code == 200
    assert error(gateway.post(limited, ALIAS)) == (403, "model_not_allowed")
    listed = httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {limited}"}).json()
    assert [m["id"] for m in listed["data"]] == ["acme/new"]


def test_the_preview_is_for_keys_that_carry_the_tag(gateway: Gateway) -> None:
    everyone, tester = gateway.key(), gateway.key("preview")
    assert error(gateway.post(everyone, "acme/new")) == (403, "model_not_allowed")
    assert error(gateway.post(everyone, headers={"x-litellm-tags": "preview"})) == (403, "tag_not_allowed")
    assert error(gateway.post(everyone, body={"tags": ["preview"]})) == (403, "tag_not_allowed")
    assert error(gateway.post(everyone, body={"metadata": {"tags": ["!default"]}})) == (403, "tag_not_allowed")
    assert gateway.post(tester, "acme/new").status_code == 200
    answers = {gateway.post(k).headers["x-litellm-model-id"].split("@")[0] for k in [everyone] * 5}
    assert answers == {"alpha"}
    assert {gateway.post(tester).headers["x-litellm-model-id"].split("@")[0] for _ in range(5)} == {"beta"}


def test_a_shadow_target_answers_nobody(gateway: Gateway) -> None:
    assert error(gateway.post(gateway.key("preview"), "acme/dark")) == (403, "model_not_allowed")
    seen = httpx.get(f"{gateway.url}/modelops/routes", headers={"authorization": f"Bearer {gateway.key('preview')}"})
    assert "dark" not in seen.text


@pytest.mark.parametrize(
    "body",
    [
        {"model": "dark@6461726b0000:acme/dark"},
        {"model": f"hosted_vllm/{ALIAS}"},
        {"model": f"{ALIAS},acme/new"},
        {"fallbacks": ["acme/new"]},
        {"specific_deployment": True, "model": f"hosted_vllm/{ALIAS}"},
        {"api_base": "http://127.0.0.1:1"},
        {"mock_response": "not the model"},
        {"no-log": True},
        {"_router_weights": {ALIAS: {f"dark@6461726b0000:{ALIAS}": 1}}},
    ],
)
def test_no_field_of_a_request_reaches_around_the_route(gateway: Gateway, body: dict[str, Any]) -> None:
    assert gateway.post(gateway.key(), body=body).status_code in (400, 404)


def test_a_revoked_key_is_refused_from_the_next_call_on(gateway: Gateway) -> None:
    key, record = gateway.keys.create("leaver")
    gateway.given.append(key)
    assert gateway.post(key).status_code == 200
    gateway.keys.revoke(record.key_id)
    assert error(gateway.post(key)) == (401, "invalid_api_key")


def test_when_keys_cannot_be_checked_nothing_is_let_through(gateway: Gateway) -> None:
    key = gateway.key()
    folder = gateway.home / "gateway/keys"
    folder.rename(folder.with_name("away"))
    try:
        assert error(gateway.post(key)) == (503, "key_store_unavailable")
        assert error(gateway.post("sk-mo-unknown")) == (503, "key_store_unavailable")
    finally:
        folder.with_name("away").rename(folder)
    assert gateway.post(key).status_code == 200


def test_the_platforms_own_key_sees_everything_and_calls_nothing(gateway: Gateway) -> None:
    operator = (gateway.home / "secrets/gateway_operator_key").read_text().strip()
    gateway.given.append(operator)
    routes = httpx.get(f"{gateway.url}/modelops/routes", headers={"authorization": f"Bearer {operator}"}).json()
    assert {t["deployment"].split("@")[0] for t in routes[ALIAS]["targets"]} == {"alpha", "beta", "dark"}
    assert gateway.post(operator).status_code == 403


def test_the_rest_of_litellm_is_not_there(gateway: Gateway) -> None:
    headers = {"authorization": f"Bearer {gateway.key()}"}
    for path in (
        "/model/info",
        "/v1/model/info",
        "/key/list",
        "/config/yaml",
        "/openapi.json",
        "/ui",
        "/metrics",
        "/v1/files",
    ):
        assert httpx.get(f"{gateway.url}{path}", headers=headers).status_code == 404, path
    assert httpx.post(f"{gateway.url}/model/new", headers=headers, json={}).status_code == 404
    assert httpx.get(f"{gateway.url}/v1/chat/completions", headers=headers).status_code == 405


# --- what clients get -----------------------------------------------------------------------------------------------


def test_the_official_client_chats_streams_and_completes(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    messages: Any = [{"role": "user", "content": PROMPT}]
    chat = client.chat.completions.create(model=ALIAS, messages=messages)
    assert (chat.choices[0].message.content, chat.model) == ("alpha t1 t2 t3 t4", ALIAS)
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 5
    stream = client.chat.completions.create(model=ALIAS, messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == "alpha t1 t2 t3 t4"
    completion = client.completions.create(model=ALIAS, prompt=PROMPT)
    assert completion.choices[0].text == "alpha t1 t2 t3 t4"
    words = client.completions.create(model=ALIAS, prompt=PROMPT, stream=True)
    assert "".join(c.choices[0].text or "" for c in words) == "alpha t1 t2 t3 t4"
    assert client.embeddings.create(model=ALIAS, input="x").data[0].embedding == [0.1, 0.2]
    assert ALIAS in [m.id for m in client.models.list()]
    assert client.models.retrieve(ALIAS).id == ALIAS
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody/nothing", messages=messages)
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="acme/new", messages=messages)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0).models.list()


def test_the_anthropic_api_works_with_its_own_key_header(gateway: Gateway) -> None:
    body = {"model": ALIAS, "max_tokens": 5, "messages": [{"role": "user", "content": PROMPT}]}
    answer = httpx.post(f"{gateway.url}/v1/messages", headers={"x-api-key": gateway.key()}, json=body, timeout=30)
    assert answer.status_code == 200
    assert answer.json()["content"][0]["text"] == "alpha t1 t2 t3 t4"


@pytest.mark.parametrize("alias", ["openai/gpt-oss-20b", "anthropic/claude-x", "plain-name", "azure/x", "langfuse/x"])
def test_an_alias_is_only_a_name_whatever_it_starts_with(gateway: Gateway, alpha: FakeBackend, alias: str) -> None:
    gateway.put(alias, target(alpha))
    answer = gateway.post(gateway.key(), alias)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == alias
    assert alpha.bodies[-1]["model"] == ALIAS


def test_neither_address_nor_key_of_an_engine_is_shown(gateway: Gateway, alpha: FakeBackend) -> None:
    port = alpha.url.split(":")[-1].split("/")[0]
    key = gateway.key()
    good = gateway.post(key)
    alpha.fail_status = 400
    bad = gateway.post(key)
    alpha.fail_status = 500
    broken = gateway.post(key)
    for answer in (good, bad, broken):
        assert port not in answer.text + str(answer.headers)
        assert "api-base" not in str(answer.headers)
        assert "litellm." not in answer.text
    assert (good.status_code, bad.status_code, broken.status_code) == (200, 400, 502)
    assert bad.json()["error"]["message"] == "engine trouble at http://alpha/v1"
    sent = alpha.headers[-1]
    assert key not in json.dumps([sent, alpha.bodies[-1]])


def test_an_attempt_that_fails_is_made_again_on_another_target(gateway: Gateway, alpha: FakeBackend) -> None:
    with socket.socket() as held:  # bound and not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        gone = target(alpha, name="gone", weight=9).model_copy(
            update={"url": f"http://127.0.0.1:{held.getsockname()[1]}/v1"}
        )
        gateway.put("acme/mixed", target(alpha), gone)
        answers = [gateway.post(gateway.key(), "acme/mixed") for _ in range(8)]
        assert [a.status_code for a in answers] == [200] * 8
        rows = [gateway.rows(a.headers["x-litellm-call-id"])[0] for a in answers]
        assert any(f["deployment"].startswith("gone@") for row in rows for f in row["failures"])
        assert {row["error"] for row in rows} == {None}
        gateway.put("acme/gone", gone)
        began = time.monotonic()
        assert error(gateway.post(gateway.key(), "acme/gone")) == (502, "endpoint_failed")
        assert time.monotonic() - began < 3


def test_one_clients_errors_do_not_take_an_endpoint_from_the_others(gateway: Gateway, alpha: FakeBackend) -> None:
    key = gateway.key()
    for _ in range(5):
        assert gateway.post(key, path="/v1/responses", body={"input": "x"}).status_code == 404
    assert gateway.post(key).status_code == 200


def test_a_stream_that_breaks_ends_in_an_error_the_client_sees(gateway: Gateway, alpha: FakeBackend) -> None:
    alpha.token_delay_s, alpha.break_stream_after = 0.1, 2
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    stream = client.chat.completions.create(model=ALIAS, messages=[{"role": "user", "content": PROMPT}], stream=True)
    with pytest.raises(openai.APIError, match="failed; try again"):
        list(stream)


# --- routes that change while calls are made ------------------------------------------------------------------------


class Load:
    """Twenty streamed calls a second, until it is left; `calls` holds (began, ended, who answered or what went wrong)."""

    def __init__(self, url: str, key: str, alias: str) -> None:
        self.calls: list[tuple[float, float, str]] = []
        self._url, self._key, self._alias = url, key, alias
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {self._key}"}) as client:
            tasks = []
            while not self._stop.is_set():
                tasks.append(asyncio.create_task(self._one(client)))
                await asyncio.sleep(0.05)
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient) -> None:
        body = {"model": self._alias, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
        began = time.monotonic()
        try:
            answer = await client.post(f"{self._url}/v1/chat/completions", json=body)
            whole = answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]")
            names = [name for name in ("alpha", "beta") if name in answer.text]
            outcome = names[0] if whole and len(names) == 1 else answer.text
        except httpx.HTTPError as error:
            outcome = repr(error)
        self.calls.append((began, time.monotonic(), outcome))


def test_a_route_flips_under_load_without_a_failed_call(
    gateway: Gateway, backends: tuple[FakeBackend, FakeBackend]
) -> None:
    alpha, beta = backends
    alias = "acme/flipping"
    gateway.put(alias, target(alpha), target(beta, weight=0))
    flips: list[tuple[float, float, str]] = []
    with Load(gateway.url, gateway.key(), alias) as load:
        for number in range(8):
            time.sleep(0.5)
            to_beta = number % 2 == 0
            changed = time.monotonic()
            gateway.put(alias, target(alpha, weight=not to_beta), target(beta, weight=to_beta))
            flips.append((changed, time.monotonic(), "beta" if to_beta else "alpha"))
        time.sleep(0.5)
    assert len(load.calls) > 40
    assert [outcome for *_, outcome in load.calls if outcome not in ("alpha", "beta")] == []
    assert statistics.median(visible - changed for changed, visible, _ in flips) < 1.0
    ends = [changed for changed, *_ in flips[1:]] + [time.monotonic()]
    for (_, visible, name), end in zip(flips, ends, strict=True):
        between = {who for began, ended, who in load.calls if visible <= began and ended <= end}
        assert between <= {name}, "a call made when the change was visible went to the old endpoint"


def test_a_withdrawn_route_is_gone_and_its_successor_is_seen(gateway: Gateway, alpha: FakeBackend) -> None:
    client, key = GatewayClient(gateway.url), gateway.key()
    first = gateway.put("acme/short-lived", target(alpha))
    gateway.routes.delete("acme/short-lived", first.version)
    client.visible("acme/short-lived", None, timeout_s=2)
    assert error(gateway.post(key, "acme/short-lived")) == (404, "model_not_found")
    again = gateway.put("acme/short-lived", target(alpha))
    assert again.version > first.version
    assert gateway.post(key, "acme/short-lived").status_code == 200
    with pytest.raises(NotRunning, match="did not follow version 99"):
        client.visible("acme/short-lived", 99, timeout_s=0.3)


def test_a_document_that_breaks_leaves_the_route_as_it_was(gateway: Gateway, alpha: FakeBackend) -> None:
    key = gateway.key()
    gateway.put("acme/fragile", target(alpha))
    path = gateway.home / "gateway/routes/acme%2Ffragile.json"
    whole = path.read_text()
    path.write_text("{")
    time.sleep(0.6)
    assert gateway.post(key, "acme/fragile").status_code == 200
    folder = path.parent
    folder.rename(folder.with_name("away"))
    time.sleep(0.6)
    assert gateway.post(key).status_code == 200
    folder.with_name("away").rename(folder)
    path.write_text(whole)
    gateway.put("acme/fragile", target(alpha, weight=2))


# --- the platform's client, and the log -----------------------------------------------------------------------------


def test_the_client_asks_and_says_why_not(gateway: Gateway, alpha: FakeBackend) -> None:
    answer, headers = GatewayClient(gateway.url, gateway.key()).ask(ALIAS, PROMPT)
    assert answer == "alpha t1 t2 t3 t4"
    assert headers["x-litellm-model-id"].startswith("alpha@")
    with pytest.raises(InvalidSpec, match="401"):
        GatewayClient(gateway.url).ask(ALIAS, PROMPT)
    alpha.fail_status = 500
    with pytest.raises(EndpointFailed, match="failed; try again"):
        GatewayClient(gateway.url, gateway.key()).ask(ALIAS, PROMPT)
    with pytest.raises(NotRunning, match="modelops up"):
        GatewayClient("http://127.0.0.1:9").ready(0.1)
    with pytest.raises(PortTaken, match="another program answers"):
        GatewayClient(alpha.url).ready(1)


def test_every_call_is_logged_once_with_its_tokens_and_without_its_prompt(gateway: Gateway, alpha: FakeBackend) -> None:
    key = gateway.key()
    alpha.token_delay_s = 0.02
    for path, body in [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/completions", {}),
        ("/v1/completions", {"stream": True}),
        ("/v1/messages", {"max_tokens": 5}),
        ("/v1/messages", {"max_tokens": 5, "stream": True}),
    ]:
        answer = gateway.post(key, path=path, body=body)
        rows = gateway.rows(answer.headers["x-litellm-call-id"])
        assert len(rows) == 1, (path, body)
        row = rows[0]
        stream = bool(body.get("stream"))
        assert (row["status"], row["error"], row["alias"], row["endpoint"]) == (200, None, ALIAS, "alpha"), (path, body)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 5), (path, body)
        assert (row["cost_usd"], row["key_alias"], row["stream"]) == (0.0, "tester", stream)
        assert row["latency_s"] > 0
        assert (row["ttft_s"] is not None) == stream
        if stream:
            assert 0 < row["ttft_s"] < row["latency_s"]
    refused = gateway.post(None)
    (row,) = gateway.rows(refused.headers["x-litellm-call-id"])
    assert (row["status"], row["error"], row["key_alias"], row["endpoint"]) == (401, "missing_api_key", None, None)


def test_a_client_that_leaves_is_logged_as_such(gateway: Gateway, alpha: FakeBackend) -> None:
    alpha.token_delay_s = 0.2
    body = {"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    headers = {"authorization": f"Bearer {gateway.key()}"}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", headers=headers, json=body) as answer:
        next(answer.iter_raw())
        call_id = answer.headers["x-litellm-call-id"]
    (row,) = gateway.rows(call_id)
    assert (row["status"], row["error"], row["endpoint"]) == (499, "ClientDisconnected", "alpha")


# --- starting, and not starting -------------------------------------------------------------------------------------


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


def test_no_key_and_no_prompt_is_on_disk_or_in_the_log(gateway: Gateway) -> None:
    """Last on purpose: it looks at what all the tests above left behind, after the gateway wrote its last rows."""
    answer = gateway.post(gateway.key())
    assert gateway.stop() in (0, -signal.SIGTERM)
    assert len(gateway.rows(answer.headers["x-litellm-call-id"])) == 1
    assert not list((gateway.home / "gateway/workers").iterdir())
    secrets = [*gateway.given, PROMPT, "sk-mo-wrong"]
    allowed = gateway.home / "secrets/gateway_operator_key"
    for path in gateway.home.rglob("*"):
        if path.is_file() and path != allowed:
            text = path.read_text()
            assert not [s for s in secrets if s in text], path
    log = gateway.log.read_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) < 40, log
