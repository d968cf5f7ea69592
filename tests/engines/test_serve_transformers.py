"""What only our own Transformers server promises, and how engines end."""

import json
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.ladder import diagnose
from tests.fakes.real_engine import CAPITAL, MAX_CONTEXT, NAME, STORY, Running, Start

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("presence_penalty", 3),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nosuch"}}}),
        ("response_format", {"type": "json_schema"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("logit_bias", {"99999999": 1}),
        ("best_of", 2),
        ("made_up", 1),
        ("temperature", 3),
    ],
)
def test_an_unsupported_field_is_named(ours: Running, field: str, value: object):
    body = {"model": NAME, "messages": CAPITAL, "max_tokens": 2, field: value}
    answer = httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, field, "invalid_request_error")
    assert field in error["message"]


def test_fields_that_ask_for_nothing_are_accepted(ours: Running):
    body = {"model": NAME, "messages": CAPITAL, "max_tokens": 2, "n": 1, "frequency_penalty": 0.0, "user": "me"}
    body |= {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": None}
    assert httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
    body |= {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
    assert httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
    body |= {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}
    assert httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=30).status_code == 200


def test_echo_scores_the_prompt(ours: Running):
    answer = ours.client.completions.create(
        model=NAME, prompt="The capital of France is", max_tokens=0, echo=True, logprobs=1, temperature=0
    )
    scores = answer.choices[0].logprobs
    assert answer.choices[0].text == "The capital of France is"
    assert scores is not None
    assert scores.tokens is not None
    assert scores.token_logprobs is not None
    assert "".join(scores.tokens) == "The capital of France is"
    assert scores.token_logprobs[0] is None
    assert all(value is not None and value < 0 for value in scores.token_logprobs[1:])
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_ignore_eos_writes_every_token_asked_for(ours: Running):
    answer = ours.client.chat.completions.create(
        model=NAME, messages=CAPITAL, max_tokens=40, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (40, "length")


def test_the_context_bounds_the_answer(ours: Running):
    prompt = "one two three four five six seven eight nine ten " * 100
    answer = ours.client.completions.create(
        model=NAME, prompt=prompt, max_tokens=500, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == MAX_CONTEXT
    assert answer.choices[0].finish_reason == "length"


def _metric(running: Running, name: str) -> float:
    lines = httpx.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_four_requests_at_once_take_far_less_than_one_after_the_other(ours: Running):
    """Measured in the same minute; on an idle machine four take little more than one."""

    def ask(number: int) -> None:
        story = [{"role": "user", "content": f"Write {number} long stories about a lighthouse."}]
        body = {"model": NAME, "messages": story, "max_tokens": 48, "temperature": 0, "ignore_eos": True}
        httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=120).raise_for_status()

    begun = time.monotonic()
    for number in range(4):
        ask(number)
    alone_s = time.monotonic() - begun
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    beside_s = time.monotonic() - begun
    print(f"\nfour one after the other: {alone_s:.1f} s; at once: {beside_s:.1f} s")
    assert beside_s < 0.75 * alone_s


def test_requests_side_by_side_keep_what_each_of_them_asked_for(ours: Running):
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    sampled = {"temperature": 1, "max_tokens": 24, "ignore_eos": True}
    asked: list[dict[str, Any]] = [
        {"temperature": 0, "max_tokens": 7},
        {"temperature": 0, "max_tokens": 40, "stop": ["lighthouse"]},
        {
            "temperature": 0,
            "max_tokens": 40,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        },
        {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 2},
        {**sampled, "seed": 1},
        {**sampled, "seed": 2},
        {**sampled, "seed": 1},
    ]

    def ask(fields: dict[str, Any]) -> Any:
        body = {"model": NAME, "messages": STORY, **fields}
        return httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=120).json()

    with ThreadPoolExecutor(len(asked)) as pool:
        short, stopped, strict, scored, one, two, again = pool.map(ask, asked)
    assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (7, "length")
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert "lighthouse" not in stopped["choices"][0]["message"]["content"]
    assert json.loads(strict["choices"][0]["message"]["content"])["colour"] in ("red", "blue")
    entries = scored["choices"][0]["logprobs"]["content"]
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * 5
    texts = [answer["choices"][0]["message"]["content"] for answer in (one, two)]
    assert texts[0] != texts[1]
    assert texts[0] == again["choices"][0]["message"]["content"] == ask(asked[4])["choices"][0]["message"]["content"]
    assert {answer["usage"]["completion_tokens"] for answer in (one, two)} == {24}


def test_one_that_goes_away_leaves_the_others_alone(ours: Running):
    body = {"model": NAME, "messages": STORY, "max_tokens": 60, "temperature": 0, "ignore_eos": True}

    def stay() -> int:
        answer = httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=120).json()
        return int(answer["usage"]["completion_tokens"])

    before = _metric(ours, 'engine_requests_total{reason="cancelled"}')
    with ThreadPoolExecutor(2) as pool:
        staying = [pool.submit(stay) for _ in range(2)]
        gone = {**body, "max_tokens": 900, "stream": True}
        with httpx.stream("POST", f"{ours.url}/v1/chat/completions", json=gone, timeout=60) as answer:
            next(answer.iter_lines())
        assert [future.result() for future in staying] == [60, 60]
    deadline = time.monotonic() + 20
    while _metric(ours, 'engine_requests_total{reason="cancelled"}') == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_more_requests_than_places_wait_for_their_turn(ours: Running):
    answer = ours.client.chat.completions.create(model=NAME, messages=STORY, n=20, max_tokens=3, temperature=1)
    assert [choice.index for choice in answer.choices] == list(range(20))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


def test_a_key_is_asked_for_where_the_environment_holds_one(registry: EngineRegistry, model: Path, tmp_path: Path):
    port = processes.free_port("127.0.0.1", set())
    spec = EndpointSpec(
        name="test",
        checkpoint=str(model),
        checkpoint_digest="sha256:test",
        engine="transformers",
        served_model_name=NAME,
        max_context=MAX_CONTEXT,
    )
    launch = registry.launch(spec, "127.0.0.1", port)
    key = "sk-only-for-tests"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            launch.argv, env={**launch.environ, "SERVE_API_KEY": key}, stdout=log, stderr=log, start_new_session=True
        )
    running = Running("transformers", process, port, tmp_path / "log")
    try:
        deadline = time.monotonic() + 300
        while not _is_healthy(running):
            assert process.poll() is None, running.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body = {"model": NAME, "messages": CAPITAL, "max_tokens": 2}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {key}"}):
            answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{running.url}/v1/models", timeout=30).status_code == 401
        assert httpx.post(f"{running.url}/tokenize", json={"prompt": "x"}, timeout=30).status_code == 401
        assert httpx.get(f"{running.url}/metrics", timeout=30).status_code == 200
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)
        assert client.chat.completions.create(model=NAME, messages=CAPITAL, max_tokens=2).usage is not None
        assert key not in running.log.read_text()
    finally:
        running.stop()


def _is_healthy(running: Running) -> bool:
    try:
        return httpx.get(f"{running.url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_request(ours: Running, stream: bool):
    body = {"model": NAME, "messages": STORY, "max_tokens": 900, "ignore_eos": True, "stream": stream}
    before = _metric(ours, 'engine_requests_total{reason="cancelled"}')
    if stream:
        with httpx.stream("POST", f"{ours.url}/v1/chat/completions", json=body, timeout=30) as answer:
            next(answer.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{ours.url}/v1/chat/completions", json=body, timeout=1)
    deadline = time.monotonic() + 20
    while _metric(ours, 'engine_requests_total{reason="cancelled"}') == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_metrics_count(ours: Running):
    before = _metric(ours, "engine_generation_tokens_total")
    ours.client.chat.completions.create(model=NAME, messages=STORY, max_tokens=7, temperature=0)
    assert _metric(ours, "engine_generation_tokens_total") == before + 7
    assert _metric(ours, "engine_requests_running") == 0
    assert _metric(ours, "engine_time_to_first_token_seconds_count") > 0


def test_not_ready_before_the_first_token(start: Start, model: Path):
    running = start("transformers", model, wait=False)
    seen: set[int] = set()
    try:
        deadline = time.monotonic() + 120
        while 200 not in seen:
            assert time.monotonic() < deadline
            try:
                seen.add(httpx.get(f"{running.url}/health", timeout=5).status_code)
            except httpx.TransportError:
                time.sleep(0.05)
        assert seen == {503, 200}
        begun = time.monotonic()
        asking = threading.Thread(target=lambda: _long_request(running))
        asking.start()
        time.sleep(1)
    finally:
        running.stop()
    asking.join(20)
    assert running.process.returncode in (0, -signal.SIGTERM)
    assert time.monotonic() - begun < 60


def _long_request(running: Running) -> None:
    body = {"model": NAME, "messages": STORY, "max_tokens": 900, "ignore_eos": True}
    answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 503


@pytest.mark.parametrize("name", ["transformers", "vllm-cpu"])
def test_a_model_that_cannot_load_ends_the_engine_and_says_why(start: Start, model: Path, tmp_path: Path, name: str):
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text()) | {"model_type": "foo_moe"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    running = start(name, tmp_path, wait=False)
    try:
        assert running.process.wait(120) == 1
    finally:
        running.stop()
    reason, detail = diagnose(running.log.read_text(), 1)
    assert reason == "needs_newer_transformers"
    assert "foo_moe" in detail


def test_a_taken_port_ends_the_server(start: Start, model: Path, ours: Running):
    running = start("transformers", model, wait=False, port=ours.port)
    try:
        assert running.process.wait(60) > 0
    finally:
        running.stop()
    assert "address already in use" in running.log.read_text()
