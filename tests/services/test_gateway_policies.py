"""What keys and routes ask of the gateway, over two workers: limits, stickiness, shadows, fall-backs, room, costs."""

import json
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.credentials import CredentialStore
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.limits import LimitStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.rollout import start_canary
from tests.fakes.backend import FakeBackend
from tests.fakes.stack import wait_until
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, ask_many, endpoints, error, put, target

Backends = tuple[FakeBackend, FakeBackend]


@pytest.fixture(autouse=True)
def _mended(alpha: FakeBackend) -> None:
    """The first engine is whole again after each test."""


def made_key(gateway: Gateway, **policy: Any) -> tuple[str, str]:
    key, record = gateway.keys.create("limited", **policy)
    gateway.given.append(key)
    return key, record.key_id


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_request_limit_holds_over_workers_and_says_when_to_come_again(gateway: Gateway) -> None:
    key, _ = made_key(gateway, rpm=10)
    answers = ask_many(gateway, key, ALIAS, 30)
    assert Counter(a.status_code for a in answers) == {200: 10, 429: 20}
    refused = next(a for a in answers if a.status_code == 429)
    assert refused.json()["error"] == {
        "message": "This key may make 10 requests in 60 seconds and made them.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rpm_exceeded",
    }
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_a_token_limit_counts_what_was_really_used(gateway: Gateway) -> None:
    key, _ = made_key(gateway, tpm=300)
    assert gateway.post(key, body={"max_tokens": 4000}).status_code == 200
    # the true 12 tokens take the place of the 4000 that were possible
    wait_until(lambda: gateway.post(key, body={"max_tokens": 4000}).status_code, lambda status: status == 200)
    assert error(gateway.post(key)) == (429, "tpm_exceeded")


def test_a_budget_is_spent_at_the_hardwares_price(gateway: Gateway, alpha: FakeBackend) -> None:
    dear = target(alpha).model_copy(update={"usd_per_hour": 3600.0})
    put(gateway, "acme/dear", dear)
    key, key_id = made_key(gateway, budget_usd_per_day=1.0)
    alpha.hold_s = 3.0
    asked = len(alpha.bodies)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(gateway.post, key, "acme/dear")
        wait_until(lambda: len(alpha.bodies) > asked)
        assert error(gateway.post(key, "acme/dear")) == (429, "budget_exceeded"), "an open call counts as estimated"
        answer = call.result()
    assert answer.status_code == 200
    (row,) = gateway.rows(answer.headers["x-litellm-call-id"])
    assert 3.0 <= row["cost_usd"] <= row["latency_s"] + 0.01, "one dollar a second, alone on the endpoint"
    deadline = time.monotonic() + 10
    limits = LimitStore(gateway.home / "gateway/limits.sqlite")
    while limits.spent_today(key_id) != pytest.approx(row["cost_usd"], abs=1e-6):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    limits.close()


def test_calls_that_share_an_endpoint_share_its_price(gateway: Gateway, alpha: FakeBackend) -> None:
    put(gateway, "acme/shared", target(alpha).model_copy(update={"usd_per_hour": 3600.0}))
    alpha.hold_s = 0.5
    begun = time.monotonic()
    answers = ask_many(gateway, gateway.key(), "acme/shared", 16)
    elapsed = time.monotonic() - begun
    rows = [gateway.rows(a.headers["x-litellm-call-id"])[0] for a in answers]
    total = sum(r["cost_usd"] for r in rows)
    assert total < 1.5 * elapsed < sum(r["latency_s"] for r in rows), "not sixteen times the hour of one machine"


def test_a_providers_tokens_cost_what_litellms_table_says(gateway: Gateway, alpha: FakeBackend) -> None:
    CredentialStore(gateway.home / "secrets/credentials").put("openai", "sk-of-the-provider")
    hosted = {"provider": "openai", "credential": "openai", "served_model_name": "gpt-4o-mini", "usd_per_hour": 0.0}
    put(gateway, "smart", target(alpha).model_copy(update=hosted))
    answer = gateway.post(gateway.key(), "smart")
    assert answer.status_code == 200, answer.text
    (row,) = gateway.rows(answer.headers["x-litellm-call-id"])
    assert row["cost_usd"] == pytest.approx(7 * 0.15e-6 + 5 * 0.60e-6)
    assert alpha.headers[-1]["Authorization"] == "Bearer sk-of-the-provider"
    documents = [p for p in gateway.home.rglob("*") if p.is_file() and "credentials" not in p.parts]
    assert not [p for p in documents if b"sk-of-the-provider" in p.read_bytes()]


def test_when_limits_cannot_be_checked_a_limited_key_is_not_let_through(gateway: Gateway) -> None:
    key, _ = made_key(gateway, rpm=1000)
    folder = gateway.home / "gateway"
    for path in folder.glob("limits.sqlite*"):
        path.rename(path.with_name(f"away-{path.name}"))
    (folder / "limits.sqlite").mkdir()
    try:
        answers = ask_many(gateway, key, ALIAS, 16)
        # a worker that has the file open goes on counting in it; one that has not must refuse
        assert {a.status_code for a in answers} <= {200, 503}
    finally:
        (folder / "limits.sqlite").rmdir()
        for path in folder.glob("away-*"):
            path.rename(path.with_name(path.name.removeprefix("away-")))
    assert gateway.post(key).status_code == 200


# --- which endpoint answers -----------------------------------------------------------------------------------------


def test_a_split_is_kept_over_workers(gateway: Gateway, backends: Backends) -> None:
    alpha, beta = backends
    put(gateway, "acme/split", target(alpha, weight=70), target(beta, weight=30))
    counted = endpoints(ask_many(gateway, gateway.key(), "acme/split", 200))
    assert abs(counted["beta"] - 60) < 3.89 * (200 * 0.3 * 0.7) ** 0.5, "outside what happens 9,999 times in 10,000"


def test_a_sticky_user_is_always_answered_by_the_same_endpoint(gateway: Gateway, backends: Backends) -> None:
    alpha, beta = backends
    put(gateway, "acme/sticky", target(alpha, weight=50), target(beta, weight=50), sticky=True)
    key, other = gateway.key(), gateway.key()
    seen = {
        user: endpoints(ask_many(gateway, key, "acme/sticky", 12, **{"x-modelops-user": user}))
        for user in ("ann", "bob", "cy", "dee", "eve", "flo", "gus", "hal")
    }
    assert {len(counted) for counted in seen.values()} == {1}
    assert len({next(iter(counted)) for counted in seen.values()}) == 2, "eight users, and all on one endpoint"
    assert len(endpoints(ask_many(gateway, other, "acme/sticky", 12))) == 1, "without a header it is the key"


def test_another_alias_answers_when_no_endpoint_can_and_only_if_the_key_may(
    gateway: Gateway, backends: Backends
) -> None:
    alpha, beta = backends
    put(gateway, "acme/spare", target(beta))
    put(gateway, "acme/frail", target(alpha), fallbacks=("acme/spare", "acme/none"))
    alpha.fail_status = 500
    answer = gateway.post(gateway.key(), "acme/frail")
    assert answer.status_code == 200, answer.text
    (row,) = gateway.rows(answer.headers["x-litellm-call-id"])
    assert (row["alias"], row["endpoint"]) == ("acme/frail", "beta")
    limited = gateway.key(models=("acme/frail",))
    assert error(gateway.post(limited, "acme/frail"))[0] in (502, 503)


def test_an_attempt_takes_no_longer_than_the_route_allows(gateway: Gateway, backends: Backends) -> None:
    alpha, _ = backends
    put(gateway, "acme/hurried", target(alpha), timeout_s=0.5)
    alpha.hold_s = 20.0
    try:
        begun = time.monotonic()
        assert error(gateway.post(gateway.key(), "acme/hurried")) == (504, "endpoint_timeout")
        assert time.monotonic() - begun < 15
    finally:
        alpha.hold_s = 0.0


def test_a_shadow_gets_copies_and_its_answers_go_nowhere(gateway: Gateway, backends: Backends) -> None:
    alpha, beta = backends
    dark = target(beta, "shadow").model_copy(update={"mirror_percent": 100})
    put(gateway, "acme/copied", target(alpha), dark)
    before = len(beta.bodies)
    key, _ = made_key(gateway, log_prompts=True)
    answer = gateway.post(key, "acme/copied", body={"stream": True})
    assert "beta" not in answer.text
    call_id = answer.headers["x-litellm-call-id"]
    (shadow,) = gateway.rows(f"{call_id}-shadow")
    assert (shadow["shadow"], shadow["endpoint"], shadow["status"], shadow["completion_tokens"]) == (
        True,
        "beta",
        200,
        5,
    )
    assert (shadow["completion"], PROMPT in shadow["prompt"]) == ("beta t1 t2 t3 t4", True)
    assert beta.bodies[before]["model"] == ALIAS
    assert "stream" not in beta.bodies[before]
    beta.fail_status = 500
    try:
        broken = gateway.post(key, "acme/copied")
        assert broken.status_code == 200
        assert gateway.rows(f"{broken.headers['x-litellm-call-id']}-shadow")[0]["status"] == 500
    finally:
        beta.fail_status = None


# --- room -----------------------------------------------------------------------------------------------------------


def test_an_alias_that_is_full_says_so_and_batches_give_way(gateway: Gateway, alpha: FakeBackend) -> None:
    put(gateway, "acme/narrow", target(alpha), max_in_flight=4)
    alpha.hold_s, alpha.most_at_once = 1.5, 0
    answers = ask_many(gateway, gateway.key(), "acme/narrow", 16)
    codes = Counter(a.status_code for a in answers)
    assert codes[200] >= 4
    assert codes[200] + codes[429] == 16
    busy = next(a for a in answers if a.status_code == 429)
    assert (error(busy), busy.headers["retry-after"]) == ((429, "alias_busy"), "1")
    waiting = ask_many(gateway, gateway.key(), "acme/narrow", 16, **{"x-modelops-priority": "batch"})
    told = Counter(error(a)[1] for a in waiting if a.status_code == 429)
    assert set(told) == {"batch_waits"}
    assert alpha.most_at_once <= 6


# --- prompts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_kept_only_where_the_key_says_so(gateway: Gateway, alpha: FakeBackend, stream: bool) -> None:
    asked = f"{PROMPT}-with-consent"
    body = {"messages": [{"role": "user", "content": asked}], "stream": stream}
    keeps, _ = made_key(gateway, log_prompts=True, team="research")
    (kept,) = gateway.rows(gateway.post(keeps, body=body).headers["x-litellm-call-id"])
    assert asked in kept["prompt"]
    assert (kept["completion"], kept["team"]) == ("alpha t1 t2 t3 t4", "research")
    (redacted,) = gateway.rows(gateway.post(gateway.key(), body=body).headers["x-litellm-call-id"])
    assert (redacted["prompt"], redacted["completion"]) == (None, None)


# --- a trial from its beginning to its end --------------------------------------------------------------------------


def test_a_canary_that_fails_is_taken_back_while_no_client_notices(gateway: Gateway, backends: Backends) -> None:
    alpha, beta = backends
    made = gateway.put("acme/tried", target(beta))
    begun = start_canary(made, target(alpha), 50, Bounds(), at=datetime.now(UTC))
    written = gateway.routes.put(begun, made.version)
    GatewayClient(gateway.url).visible("acme/tried", written.version)
    alpha.fail_status = 500
    key, deadline = gateway.key(), time.monotonic() + 90
    while (now := gateway.routes.get("acme/tried")) is None or now.canary is not None:
        assert time.monotonic() < deadline, "the canary is still there"
        assert {a.status_code for a in ask_many(gateway, key, "acme/tried", 16)} == {200}, "another endpoint answers"
        time.sleep(0.5)
    assert {t.endpoint: bool(t.weight) for t in now.targets} == {"alpha": False, "beta": True}
    assert "too many errors" in now.reason
    (told,) = [d.alert for d in Outbox(gateway.home / "alerts").recent(datetime.now(UTC))]
    assert (told.kind, told.subject, told.lines[0]) == ("canary", "acme/tried", "endpoint alpha")


# --- what an application may send -----------------------------------------------------------------------------------


def test_tools_formats_and_images_reach_the_engine_as_they_were_sent(gateway: Gateway, alpha: FakeBackend) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": PROMPT}, picture]
    body = {
        "messages": [{"role": "user", "content": content}],
        "tools": tools,
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "temperature": 0.5,
        "seed": 7,
    }
    assert gateway.post(gateway.key(), body=body).status_code == 200
    sent = alpha.bodies[-1]
    assert {name: sent[name] for name in body} == body


def test_curl_is_all_one_needs(gateway: Gateway) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on this machine")
    body = json.dumps({"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}], "stream": True})
    command = [curl, "-sN", f"{gateway.url}/v1/chat/completions", "-H", f"Authorization: Bearer {gateway.key()}"]
    told = subprocess.run([*command, "-d", body], capture_output=True, text=True, timeout=60, check=True)
    events = [line for line in told.stdout.splitlines() if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]"
    assert "alpha" in events[0] + events[1]
