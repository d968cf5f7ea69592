"""The gateway as clients meet it: the real LiteLLM proxy in a process of its own, engines that answer on loopback."""

import json
import socket
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.rollout import Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec, NotRunning, PortTaken
from modelops_dagster.domain.gateway import with_targets
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, Load, error, target

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


def test_nothing_but_the_body_that_was_checked_names_the_model(gateway: Gateway, alpha: FakeBackend) -> None:
    key = gateway.key()
    other = "beta@626574610000:acme/new"
    assert (
        gateway.post(key, path=f"/v1/chat/completions?model={other}").headers["x-litellm-model-id"].startswith("alpha@")
    )
    body = json.dumps({"model": ALIAS, "messages": [{"role": "user", "content": f"&model={other}&"}]})
    headers = {"authorization": f"Bearer {key}", "content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", headers=headers, content=body, timeout=30)
    assert answer.headers["x-litellm-model-id"].startswith("alpha@")
    assert gateway.post(key, headers={"x-litellm-timeout": "0", "x-litellm-num-retries": "9"}).status_code == 200


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
        assert time.monotonic() - began < 15


def test_one_clients_errors_do_not_take_an_endpoint_from_the_others(gateway: Gateway, alpha: FakeBackend) -> None:
    key = gateway.key()
    for _ in range(5):
        assert error(gateway.post(key, path="/v1/responses", body={"input": "x"})) == (400, "not_supported")
    assert gateway.post(key).status_code == 200


def test_looking_at_the_gateway_is_no_call_and_asks_no_engine(gateway: Gateway, alpha: FakeBackend) -> None:
    key, record = gateway.keys.create("looker")
    gateway.given.append(key)
    asked = len(alpha.bodies)
    for path in ("/health/liveliness", "/health", "/health/readiness", f"/modelops/routes/{ALIAS}", "/v1/models"):
        httpx.get(f"{gateway.url}{path}", headers={"authorization": f"Bearer {key}"})
    call_id = gateway.post(key).headers["x-litellm-call-id"]
    assert len(gateway.rows(call_id)) == 1
    rows = [row for row in gateway.logged() if row["key_id"] == record.key_id]
    assert [row["call_id"] for row in rows] == [call_id], "nothing else is logged, and nobody charged"
    assert len(alpha.bodies) == asked + 1


def test_a_stream_that_breaks_ends_in_an_error_the_client_sees(gateway: Gateway, alpha: FakeBackend) -> None:
    alpha.token_delay_s, alpha.break_stream_after = 0.1, 2
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    stream = client.chat.completions.create(model=ALIAS, messages=[{"role": "user", "content": PROMPT}], stream=True)
    with pytest.raises(openai.APIError, match="failed; try again"):
        list(stream)


# --- routes that change while calls are made ------------------------------------------------------------------------


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


def test_the_gateway_of_another_home_is_not_taken_for_ones_own(gateway: Gateway, tmp_path: Path) -> None:
    own = GatewayClient(gateway.url, home=gateway.home)
    assert own.running()
    own.visible(ALIAS, 1)
    other = GatewayClient(gateway.url, home=tmp_path)
    for ask in (other.running, lambda: other.visible(ALIAS, 1), lambda: other.visible("acme/unknown", None)):
        with pytest.raises(PortTaken, match="follows the routes of another home and not those of"):
            ask()
    rollout = Rollout(RouteStore(tmp_path / "gateway"), other)
    with pytest.raises(PortTaken):
        rollout.change("acme/new", lambda _: with_targets(None, "acme/new", [], at=datetime.now(UTC)))
    assert RouteStore(tmp_path / "gateway").aliases() == ()
    assert str(gateway.home) not in httpx.get(f"{gateway.url}/health/liveliness").text


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
