"""The official client of the OpenAI API against the gateway: tools in streams, pictures, embeddings."""

import json
from typing import Any

import openai
import pytest

from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway

WEATHER = {"city": "Zürich", "days": [1, 2], "unit": {"name": "C"}}
CALLED = (("weather", json.dumps(WEATHER)), ("clock", "{}"))
SCHEMA = {"type": "object", "properties": {}}
TOOLS: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name, _ in CALLED]
PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def client(gateway: Gateway, alpha: FakeBackend) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0, timeout=120)


def said(content: object) -> Any:
    return [{"role": "user", "content": content}]


def test_tools_are_called_in_a_stream(client: openai.OpenAI, alpha: FakeBackend) -> None:
    alpha.calls_tools = CALLED
    with client.chat.completions.stream(model=ALIAS, messages=said(PROMPT), tools=TOOLS) as stream:
        deltas = [e for e in stream if e.type == "tool_calls.function.arguments.delta"]
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "alpha t1 t2 t3 t4"
    calls = choice.message.tool_calls or []
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [("weather", WEATHER), ("clock", {})]
    assert [c.id for c in calls] == ["call-1", "call-2"], "the ids are the engine's"
    assert len(deltas) > 5, "arguments come as the engine writes them"


def test_what_a_tool_found_goes_back_to_the_engine(client: openai.OpenAI, alpha: FakeBackend) -> None:
    asked = {"id": "call-1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    turns: Any = [
        *said(PROMPT),
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "call-1", "content": "noon"},
    ]
    stream = client.chat.completions.create(model=ALIAS, messages=turns, tools=TOOLS, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == "alpha t1 t2 t3 t4"
    assert [m["role"] for m in alpha.bodies[-1]["messages"]] == ["user", "assistant", "tool"]
    assert alpha.bodies[-1]["messages"][1]["tool_calls"] == [asked]


def test_an_engine_without_responses_is_a_bad_request_that_says_so(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="does not answer /v1/responses"):
            client.responses.create(model=ALIAS, input=PROMPT, stream=stream)


def test_a_picture_reaches_a_model_that_sees_and_another_says_that_it_does_not(
    client: openai.OpenAI, alpha: FakeBackend
) -> None:
    parts = [{"type": "text", "text": PROMPT}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    client.chat.completions.create(model=ALIAS, messages=said(parts))
    assert alpha.bodies[-1]["messages"] == said(parts)
    alpha.fail_status, alpha.fail_message = 400, "At most 0 image(s) may be provided in one prompt."
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="At most 0 image"):
            client.chat.completions.create(model=ALIAS, messages=said(parts), stream=stream)


@pytest.mark.parametrize("status", [400, 404])
def test_a_model_without_embeddings_is_a_bad_request_that_says_so(
    client: openai.OpenAI, alpha: FakeBackend, status: int
) -> None:
    found = client.embeddings.create(model=ALIAS, input=["one", "two"], encoding_format="float")
    assert found.data[0].embedding == [0.1, 0.2]
    assert alpha.bodies[-1]["input"] == ["one", "two"]
    alpha.fail_status, alpha.fail_message = status, "The model does not support Embeddings API"
    with pytest.raises(openai.BadRequestError, match=r"does not support Embeddings|does not answer /v1/embeddings"):
        client.embeddings.create(model=ALIAS, input="one")
