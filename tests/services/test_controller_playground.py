"""Talking to one endpoint through the controller: what goes on, what does not, and what is said when it fails."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from modelops_dagster.clients.keys import AccessStore
from modelops_dagster.domain.access import Role
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.services.controller.routers.playground import MOST_VISITORS
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.stack import Stack, wait_until

HELLO = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("playground")).up()
    stack.ready("--longest-prompt", "100", "--tokens-per-second", "50", visibility="private")
    yield stack
    stack.down()


def chat(stack: Stack, body: dict[str, Any], name: str = "small", role: Role = Role.OPERATOR) -> httpx.Response:
    key, _ = AccessStore(stack.home).create("tester", role)
    url = f"http://127.0.0.1:{stack.port}/v1/endpoints/{name}/chat"
    return httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False)


def events_of(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_it_streams_what_the_engine_says(running: Stack):
    answer = chat(running, HELLO)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "Python" not in answer.headers["server"], "the engine's headers do not go on"
    text = "".join(e["choices"][0]["delta"]["content"] for e in events_of(answer.text))
    assert text == "You asked: hello. The answer is 42. "
    assert answer.text.endswith("data: [DONE]\n\n")


def test_it_answers_in_one_document_when_asked_to(running: Stack):
    body = chat(running, {**HELLO, "stream": False, "max_tokens": 2}).json()
    assert body["choices"][0]["message"]["content"] == "You asked:"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": list("abcde")}, "stop"),
        ({"stop": [""]}, "stop.0"),
        ({"model": "another"}, "model"),
    ],
)
def test_a_bad_conversation_names_the_field(running: Stack, changes: dict[str, Any], field: str):
    error = error_of(chat(running, {**HELLO, **changes}), 422)
    assert (error["code"], error["field"]) == ("invalid_spec", field)


def test_what_the_engine_refuses_is_told_and_its_address_is_not(running: Stack):
    answer = chat(running, {"messages": [{"role": "user", "content": "x" * 200}]})
    error = error_of(answer, 422)
    assert (error["code"], "longer than the context" in error["message"]) == ("engine_refused", True)
    assert "127.0.0.1" not in answer.text


def test_a_viewer_may_not(running: Stack):
    assert error_of(chat(running, HELLO, role=Role.VIEWER), 403)["code"] == "forbidden"
    assert error_of(chat(running, HELLO, name="nobody"), 404)["code"] == "no_such_endpoint"


def test_visitors_are_few_at_a_time_and_make_room_when_they_leave(running: Stack):
    running.ready("--tokens-per-second", "0.5", name="open", visibility="public")
    url = f"http://127.0.0.1:{running.port}/v1/endpoints/open/chat"
    with ExitStack() as talking:
        pieces = []
        for _ in range(MOST_VISITORS):
            client = talking.enter_context(httpx.Client(trust_env=False, timeout=30))
            pieces.append(talking.enter_context(client.stream("POST", url, json=HELLO)).iter_bytes())
        assert all(b"delta" in next(piece) for piece in pieces)
        refused = httpx.post(url, json=HELLO, trust_env=False, timeout=30)
        assert error_of(refused, 429)["code"] == "too_many_visitors"
        assert "retry-after" in refused.headers
        assert chat(running, {**HELLO, "max_tokens": 1}, name="open").status_code == 200, "a key is no visitor's"
    shorter = {**HELLO, "max_tokens": 1}
    wait_until(lambda: httpx.post(url, json=shorter, trust_env=False, timeout=30).status_code, lambda s: s == 200)


def test_an_endpoint_that_starts_says_when_to_come_again_and_a_stopped_one_how_to_start_it(running: Stack):
    running.client.apply(running.spec("--load-s", "30", name="loading"))
    answer = chat(running, HELLO, name="loading")
    assert error_of(answer, 503)["code"] == "endpoint_starting"
    assert int(answer.headers["retry-after"]) >= 5
    running.client.stop("loading")
    running.client.wait_stopped("loading")
    error = error_of(chat(running, HELLO, name="loading"), 409)
    assert "modelops endpoints start loading" in error["message"]


def test_an_answer_that_breaks_off_says_so_as_an_event(running: Stack):
    status = running.ready("--tokens-per-second", "10", name="dying")
    assert status.pid is not None
    key, _ = AccessStore(running.home).create("tester", Role.OPERATOR)
    url = f"http://127.0.0.1:{running.port}/v1/endpoints/dying/chat"
    headers = {"Authorization": f"Bearer {key}"}
    text = ""
    with httpx.stream("POST", url, json=HELLO, headers=headers, timeout=30, trust_env=False) as answer:
        for piece in answer.iter_text():
            if not text:
                os.kill(status.pid, 9)
            text += piece
    assert answer.status_code == 200
    assert '"delta"' in text
    assert events_of(text)[-1]["error"]["code"] == "engine_failed"
    assert str(status.url).split("/")[2] not in text


def test_what_somebody_else_serves_is_asked_with_its_key_and_for_no_visitor(running: Stack):
    with OpenAIServer(api_key="sk-theirs").in_thread() as server:
        folder = running.home / "secrets" / "credentials"
        folder.mkdir(parents=True)
        (folder / "THEIR_API_KEY").write_text("sk-theirs")
        api = {"url": server.url, "model_id": MODEL, "api_key_name": "THEIR_API_KEY"}
        fields = {"deployment": {"type": "none"}, "target": {"api_endpoint": api}, "visibility": "public"}
        running.client.apply(EndpointSpec.model_validate({"name": "theirs", **fields}))
        assert running.client.wait_ready("theirs", 30).url == server.url
        answer = chat(running, {**HELLO, "stream": False}, name="theirs")
        assert answer.json()["choices"][0]["message"]["content"]
        visitor = httpx.post(
            f"http://127.0.0.1:{running.port}/v1/endpoints/theirs/chat", json=HELLO, trust_env=False, timeout=30
        )
        assert error_of(visitor, 401)["code"] == "unauthorized"
        assert error_of(chat(running, HELLO, name="theirs", role=Role.VIEWER), 403)["code"] == "forbidden"
        server.api_key = "sk-another"
        refused = chat(running, HELLO, name="theirs")
        assert error_of(refused, 422)["code"] == "engine_refused"
        assert "sk-theirs" not in refused.text
        running.client.delete("theirs")
        running.client.wait_deleted("theirs")
