"""The official client of the Anthropic API against the gateway: chat, streams, tools, and what is refused."""

import json

import anthropic
import pytest

from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway

ANSWER = "alpha t1 t2 t3 t4"


@pytest.fixture
def client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key(), max_retries=0, timeout=120)


def asked(**more: object) -> dict[str, object]:
    return {"model": ALIAS, "max_tokens": 16, "messages": [{"role": "user", "content": PROMPT}], **more}


def test_a_message_is_answered_with_its_usage(client: anthropic.Anthropic, alpha: FakeBackend) -> None:
    answer = client.messages.create(**asked(system="Be brief."))
    assert [block.text for block in answer.content] == [ANSWER]
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 7, 5)
    assert [m["role"] for m in alpha.bodies[-1]["messages"]] == ["system", "user"]


def test_a_stream_comes_in_pieces_and_ends_with_the_whole_message(
    client: anthropic.Anthropic, alpha: FakeBackend
) -> None:
    with client.messages.stream(**asked()) as stream:
        pieces = list(stream.text_stream)
        whole = stream.get_final_message()
    assert len(pieces) > 1
    assert ("".join(pieces), whole.content[0].text, whole.stop_reason) == (ANSWER, ANSWER, "end_turn")


def test_a_tool_is_called_and_its_result_goes_back(client: anthropic.Anthropic, alpha: FakeBackend) -> None:
    alpha.calls_tools = (("clock", "{}"),)
    tool = {"name": "clock", "description": "Tells the time.", "input_schema": {"type": "object", "properties": {}}}
    answer = client.messages.create(**asked(tools=[tool]))
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    assert (answer.stop_reason, call.name, call.input) == ("tool_use", "clock", {})
    assert alpha.bodies[-1]["tools"][0]["function"]["name"] == "clock"
    alpha.calls_tools = ()
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "noon"}
    turns = [
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": "clock", "input": {}}]},
        {"role": "user", "content": [result]},
    ]
    assert client.messages.create(**asked(tools=[tool], messages=turns)).content[0].text == ANSWER
    sent = alpha.bodies[-1]["messages"]
    assert [m["role"] for m in sent] == ["user", "assistant", "tool"]
    assert (sent[2]["tool_call_id"], sent[2]["content"]) == (call.id, "noon")


WEATHER = {"city": "Zürich", "days": [1, 2], "unit": {"name": "C"}}
TOOLS = [
    {"name": name, "description": "A tool.", "input_schema": {"type": "object", "properties": {}}}
    for name in ("weather", "clock")
]


def test_tools_are_called_in_a_stream_one_after_the_other(client: anthropic.Anthropic, alpha: FakeBackend) -> None:
    alpha.calls_tools = (("weather", json.dumps(WEATHER)), ("clock", "{}"))
    with client.messages.stream(**asked(tools=TOOLS)) as stream:
        events = list(stream)
        whole = stream.get_final_message()
    assert [block.type for block in whole.content] == ["text", "tool_use", "tool_use"]
    text, weather, clock = whole.content
    assert (text.text, whole.stop_reason) == (ANSWER, "tool_use")
    assert (weather.name, weather.input) == ("weather", WEATHER)
    assert (clock.name, clock.input) == ("clock", {})
    assert weather.id != clock.id
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 5)
    pieces = [e.partial_json for e in events if e.type == "input_json"]
    assert len(pieces) > 5, "arguments come as the engine writes them"
    kinds = [e.type for e in events if e.type in ("content_block_start", "content_block_stop")]
    assert kinds == ["content_block_start", "content_block_stop"] * 3, "no block begins before the one before it ended"


def test_what_is_refused_is_an_error_of_the_client_s_own(
    gateway: Gateway, client: anthropic.Anthropic, alpha: FakeBackend
) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**asked(model="nobody/nothing"))
    with pytest.raises(anthropic.PermissionDeniedError):
        client.messages.create(**asked(model="acme/new"))
    stranger = anthropic.Anthropic(base_url=gateway.url, api_key="sk-mo-wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(**asked())
    alpha.fail_status = 500
    with pytest.raises(anthropic.APIStatusError, match="failed; try again in a moment"):
        client.messages.create(**asked())
