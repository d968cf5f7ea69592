"""The parts of the Transformers server that need no model: text as it comes, and what a request asks for."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelops_dagster.workers.serve_transformers.protocol import ChatRequest, CompletionRequest, Refused
from modelops_dagster.workers.serve_transformers.text_stream import TextStream


def decode(ids: Sequence[int]) -> str:
    """One id is one byte of UTF-8."""
    return bytes(ids).decode(errors="replace")


def run(text: str, stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    stream = TextStream(decode, stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.feed(byte))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped


@given(st.text())
def test_all_text_comes_and_no_half_character(text: str):
    pieces, stopped = run(text)
    assert "".join(pieces) == text
    assert not stopped


@given(st.text(alphabet="abc", max_size=40), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str]):
    """Byte by byte, the stop string that is complete first ends the text."""
    ends = [(at + len(stop), -len(stop)) for stop in stops if (at := text.find(stop)) >= 0]
    end, length = min(ends, default=(len(text), 0))
    pieces, stopped = run(text, stops)
    assert "".join(pieces) == text[: end + length]
    assert stopped == bool(ends)


def test_what_may_be_the_beginning_of_a_stop_string_is_held_back():
    assert run("one END", ["END"])[0] == ["o", "n", "e", " ", "", "", "", ""]
    assert run("one ENough", ["END"])[0] == ["o", "n", "e", " ", "", "", "ENo", "u", "g", "h", ""]
    assert "".join(run("one EN", ["END"])[0]) == "one EN"


def test_an_unfinished_character_at_the_end_is_shown_as_such():
    stream = TextStream(decode)
    assert [stream.feed(byte) for byte in "é".encode()[:1]] == [""]
    assert stream.finish() == "\ufffd"


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def test_greedy_leaves_no_sampling_argument():
    defaults = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1}
    assert chat(temperature=0).sampling(defaults) == {"do_sample": False, "repetition_penalty": 1.1}
    assert chat().sampling(defaults) == {"do_sample": True, **defaults}
    assert chat(top_p=0.5, top_k=-1).sampling(defaults)["top_k"] == 0


@pytest.mark.parametrize("fields", [{"truncate_prompt_tokens": 4}, {"tools": [{}]}, {"guided_json": {}}])
def test_what_would_be_ignored_is_refused(fields: dict[str, object]):
    with pytest.raises(Refused) as caught:
        chat(**fields).refuse_unsupported()
    assert caught.value.param == next(iter(fields))


def test_what_asks_for_nothing_is_not():
    chat(n=1, tools=None, presence_penalty=0.0, user="me", response_format={"type": "text"}).refuse_unsupported()


@pytest.mark.parametrize("fields", [{"temperature": -1}, {"max_completion_tokens": 0}, {"top_p": 0}, {"messages": []}])
def test_values_out_of_range(fields: dict[str, object]):
    with pytest.raises(ValidationError):
        chat(**fields)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]])],
)
def test_prompts(prompt: object, prompts: list[object]):
    assert CompletionRequest.model_validate({"model": "m", "prompt": prompt}).prompts == prompts


def test_messages_become_role_and_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = chat(messages=[{"role": "user", "content": parts, "name": "me"}]).messages[0]
    assert message.for_template() == {"role": "user", "content": "ab"}
    with pytest.raises(Refused, match="'image_url' is not supported"):
        chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]).messages[0].for_template()
