"""The client against a server that misbehaves: times, retries, concurrency, and what each fault is called."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.inference import InferenceClient, RetryBudget
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.openai_urls import api_of, base_url
from tests.fakes.openai_server import MODEL, Fault, OpenAIServer

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 50}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}


def asked(server: OpenAIServer, ask: Callable[[InferenceClient], Awaitable[Any]], **options: Any) -> Any:
    """Run `ask` with a client of the running server."""

    async def run() -> Any:
        async with server.running():
            settings = {"concurrency": 2, "attempt_timeout_s": 5, "retries": 0, **options}
            async with InferenceClient(server.url, **settings) as client:
                return await ask(client)

    return asyncio.run(run())


def one(server: OpenAIServer, body: Any = BODY, **options: Any) -> Completion:
    got: Completion = asked(server, lambda client: client.complete(body), **options)
    return got


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("https://h/api/v3/chat/completions", "https://h/api/v3"),
        ("http://h/v1/completions", "http://h/v1"),
    ],
)
def test_base_url_or_full_path(given: str, wanted: str) -> None:
    assert base_url(given) == wanted


@pytest.mark.parametrize(
    "given", ["localhost:8000", "ftp://h/v1", "http://", "h", "http://h:99999/v1", "http://h:0", "http://[::1/v1"]
)
def test_not_a_url(given: str) -> None:
    with pytest.raises(ValueError, match="is not a URL"):
        base_url(given)
    assert api_of(given) is None


def test_no_password_stands_in_an_address_or_in_what_is_said_of_it() -> None:
    with pytest.raises(ValueError, match="of 'h:8000' holds a user name or password") as caught:
        base_url("http://me:pw1@h:8000/v1")
    assert "pw1" not in str(caught.value)
    assert base_url("http://h/accounts/@me/v1") == "http://h/accounts/@me/v1"


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["plain", "stream"])
def test_text_usage_and_reason(body: Any) -> None:
    got = one(OpenAIServer(reasoning="hm"), body)
    assert (got.text, got.reasoning, got.finish_reason) == ("You said: one two three four", "hm", "stop")
    assert (got.tokens_in, got.tokens_out, got.status, got.error, got.attempts) == (8, 6, 200, None, 1)


def test_completions_route() -> None:
    server = OpenAIServer()
    got = asked(server, lambda c: c.complete({"model": MODEL, "prompt": "a b", "max_tokens": 9}, api="completions"))
    assert got.text == "You said: a b"


def test_ttft_is_the_first_content_not_the_role_chunk() -> None:
    got = one(OpenAIServer(role_chunk_first=True, first_token_s=3, token_s=0.02), STREAM, attempt_timeout_s=60)
    assert got.first_chunk_ms is not None
    assert got.ttft_ms is not None
    assert got.first_chunk_ms < got.ttft_ms
    assert got.ttft_ms >= 2990
    assert len(got.itl_ms) == 5
    assert got.e2el_ms is not None
    assert 0 < sum(got.itl_ms) <= got.e2el_ms - got.ttft_ms + 0.001
    assert got.tpot_ms == pytest.approx((got.e2el_ms - got.ttft_ms) / 5)


def test_reasoning_counts_for_ttft_and_content_for_ttfot() -> None:
    got = one(OpenAIServer(reasoning="hm", first_token_s=0.05), STREAM)
    assert got.ttft_ms is not None
    assert got.ttfot_ms is not None
    assert got.ttft_ms <= got.ttfot_ms


@pytest.mark.parametrize("asked_for", [1, 3, 17])
def test_concurrency_asked_is_concurrency_seen(asked_for: int) -> None:
    server = OpenAIServer(latency_s=0.05)
    many = lambda c: asyncio.gather(*(c.complete(BODY) for _ in range(asked_for * 3)))  # noqa: E731
    got = asked(server, many, concurrency=asked_for)
    assert server.most_at_once == asked_for
    assert max(c.client_queue_ms for c in got) > 90
    assert min(c.client_queue_ms for c in got) < 20


FAULTS: list[tuple[Fault, Any, str]] = [
    ("hang", BODY, "timeout"),
    ("hang", STREAM, "timeout"),
    ("slow_drip", STREAM, "timeout"),
    ("html", BODY, "html"),
    ("html", STREAM, "html"),
    ("not_json", BODY, "not_json"),
    ("not_json", STREAM, "not_json"),
    ("empty_choices", BODY, "empty_choices"),
    ("empty_choices", STREAM, "empty_choices"),
    ("unauthorized", BODY, "unauthorized"),
    ("not_found", BODY, "not_found"),
    ("rate_limited", BODY, "rate_limited"),
    ("server_error", BODY, "server_error"),
    ("cut_stream", STREAM, "cut_stream"),
    ("no_finish", STREAM, "cut_stream"),
    ("error_in_stream", STREAM, "server_error"),
    ("close", BODY, "connection"),
    ("endless", BODY, "not_json"),
    ("endless", STREAM, "not_json"),
]


@pytest.mark.parametrize(("fault", "body", "error"), FAULTS, ids=[f"{f}-{'stream' in b}" for f, b, _ in FAULTS])
def test_every_fault_has_a_name_and_no_answer_is_made_of_it(fault: Fault, body: Any, error: str) -> None:
    started = time.monotonic()
    got = one(OpenAIServer(fault=fault), body, attempt_timeout_s=200 if fault == "endless" else 0.5)
    assert (got.error, got.is_ok) == (error, False)
    assert got.error_detail
    assert time.monotonic() - started < 240


def test_nobody_listens() -> None:
    async def run() -> Completion:
        async with InferenceClient("http://127.0.0.1:9", concurrency=1, retries=1) as client:
            return await client.complete(BODY)

    got = asyncio.run(run())
    assert (got.error, got.attempts) == ("connection", 2)


def test_retries_until_the_server_is_well() -> None:
    server = OpenAIServer(fault="server_error", faulty=2)
    got = one(server, retries=3)
    assert (got.is_ok, got.attempts, len(server.bodies)) == (True, 3, 3)


def test_retry_after_is_honoured_and_too_long_a_wait_is_not_waited() -> None:
    started = time.monotonic()
    got = one(OpenAIServer(fault="rate_limited", faulty=1, retry_after="0.6"), retries=3)
    assert got.is_ok
    assert time.monotonic() - started >= 0.6
    started = time.monotonic()
    got = one(OpenAIServer(fault="rate_limited", retry_after="3600"), retries=3)
    assert (got.error, got.attempts) == ("rate_limited", 1)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("fault", ["unauthorized", "not_found", "html", "empty_choices"])
def test_what_will_not_change_is_not_asked_again(fault: Fault) -> None:
    server = OpenAIServer(fault=fault)
    one(server, retries=5)
    assert len(server.bodies) == 1


def test_a_hung_endpoint_costs_two_timeouts_at_most() -> None:
    server = OpenAIServer(fault="hang")
    assert one(server, retries=9, attempt_timeout_s=0.2).attempts == 2


def test_retry_budget_is_shared() -> None:
    server = OpenAIServer(fault="server_error")
    many = lambda c: asyncio.gather(*(c.complete(BODY) for _ in range(6)))  # noqa: E731
    asked(server, many, retries=3, budget=RetryBudget(4))
    assert len(server.bodies) == 6 + 4


def test_cancelling_leaves_no_request_running() -> None:
    server = OpenAIServer(latency_s=30)

    async def run() -> None:
        async with server.running():
            async with InferenceClient(server.url, concurrency=4) as client:
                asking = [asyncio.ensure_future(client.complete(BODY)) for _ in range(8)]
                await asyncio.sleep(0.2)
                assert server.at_once == 4
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
            for _ in range(50):
                if server.at_once == 0:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError(f"{server.at_once} requests are still running")

    asyncio.run(run())


def test_inference_seconds_is_the_union_of_what_was_in_flight() -> None:
    async def ask(client: InferenceClient) -> float:
        await asyncio.gather(*(client.complete(BODY) for _ in range(4)))
        await asyncio.sleep(0.3)
        await client.complete(BODY)
        return client.inference_seconds

    assert asked(OpenAIServer(latency_s=0.1), ask, concurrency=4) == pytest.approx(0.2, abs=0.08)


def test_the_key_goes_into_the_header_only() -> None:
    server = OpenAIServer(api_key="sk-secret")
    assert one(server, api_key="sk-secret").is_ok
    assert one(server).error == "unauthorized"
    assert "sk-secret" not in str(server.bodies)


def test_whatever_json_can_hold_is_sent() -> None:
    server = OpenAIServer()
    body = BODY | {"messages": [{"role": "user", "content": "half \ud83d here"}], "big": 2**80}
    assert one(server, body).error is None
    assert server.bodies[0] == body


SHAPES = (
    "null", "[]", "3", '{"choices": [null]}', '{"choices": {"a": 1}}', '{"choices": ["text"]}', '{"choices": [3]}',
    '{"choices": [{"message": "hi"}]}', '{"choices": [{"message": {"content": 5}}]}',
    '{"choices": [{"message": {"content": ["a"]}}]}', '{"choices": [{"message": {"tool_calls": 7}}]}',
    '{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [1]}}]}', '{"choices": [{}], "usage": [1]}',
    '{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": "9"}}',
    '{"choices": [{"message": {"content": "\\ud83d half"}}]}', '{"choices": [{"delta": {"content": {"a": 1}}}]}',
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["plain", "stream"])
def test_json_of_any_shape_is_an_answer_or_an_error_never_a_crash(shape: str, body: Any) -> None:
    got = one(OpenAIServer(shape=shape), body)
    assert got.error in (None, "not_json", "empty_choices", "cut_stream")
    assert isinstance(got.text, str)
    got.text.encode()
    assert got.tokens_in is None or isinstance(got.tokens_in, int)
