"""The runner against bare aiohttp, side by side in one run: what asking, scoring and landing cost beyond the requests.

A loopback server of its own process answers N chat requests at a fixed concurrency, at once or after 500 ms. Bare
aiohttp posts the same bodies and decodes the JSON, nothing more. Ours is a whole suite run: answers read and scored, a
journal written, rows and metrics landed as Parquet. Pairs alternate, and the best of each side counts, since
whatever else the machine does only adds. Inspect asks the same where it is installed. The same is measured for
streams, where bare aiohttp only reads the bytes and ours decodes and times every event. TTFT is read from the same
server, which sends its first token late and says in it when: on a busy machine 200 ms and a queue of 32 last longer,
and that is the truth then.
"""

import asyncio
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from bench.figures import Figure
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.gauntlet import event_loop
from modelops_dagster.clients.gauntlet.dataset import request_body
from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.clients.gauntlet.inspect_engine import ENGINE, InspectEngine, InspectOrder
from modelops_dagster.clients.gauntlet.runner import ask_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.settings import Settings

N, CONCURRENCY = 500, 32
PAIRS = {0: 15, 500: 3}
FIRST_TOKEN_MS = 200.0
TTFT_REQUESTS = 96
MODEL = "bench"
INSPECT_TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

@task
def bench(n: int):
    asked = "What is {} plus 0? Answer with the number."
    samples = [Sample(input=asked.format(i), target=str(i), id=str(i)) for i in range(n)]
    return Task(samples, solver=generate(), scorer=exact())
"""


def run() -> Iterator[Figure]:
    """Yields both wall-clock ratios with what they are made of, and the error of TTFT."""
    _go_first()
    parent, child = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(child,), daemon=True)
    server.start()
    try:
        base = parent.recv()
        for latency_ms, pairs in PAIRS.items():
            yield from _compare(f"{base}/{latency_ms}", latency_ms, pairs)
        yield from _compare(f"{base}/0", 0, PAIRS[0], stream=True)
        yield from _inspect(f"{base}/0")
        yield _ttft(f"{base}/ttft")
    finally:
        server.terminate()
        server.join()


def _go_first() -> None:
    """On a machine that does other things as well, both sides and the server go before them, where we may ask that."""
    with contextlib.suppress(OSError):
        os.nice(-15)


def _compare(url: str, latency_ms: int, pairs: int, *, stream: bool = False) -> Iterator[Figure]:
    bare, ours, cpu = [], [], []
    _bare(url, stream)  # both sides start with warm code and a warm server
    _ours(url, stream)
    for number in range(pairs):
        bare.append(_bare(url, stream))
        begun = time.process_time()
        ours.append(_ours(url, stream))
        cpu.append((time.process_time() - begun) / N * 1000)
        print(f"bench runner: {latency_ms} ms, pair {number + 1}: {bare[-1]:.2f} s, {ours[-1]:.2f} s", file=sys.stderr)
    against = "bytes read, not decoded" if stream else {0: "<= 1.5", 500: "<= 1.05"}[latency_ms]
    what = f"{latency_ms}ms" + ("_streamed" if stream else "")
    ratio = min(ours) / min(bare)
    yield Figure("runner", f"ratio_{what}", ratio, "ratio", against)
    yield Figure("runner", f"bare_aiohttp_{what}_s", min(bare), "s", "")
    yield Figure("runner", f"ours_{what}_s", min(ours), "s", "")
    yield Figure("runner", f"ours_cpu_{what}_per_sample", min(cpu), "ms", "")


def _inspect(url: str) -> Iterator[Figure]:
    """The same questions asked by Inspect, by its own clock: from the first sample to scores and log."""
    settings = Settings.load()
    engine = InspectEngine(EngineRegistry.from_settings(settings), Path())
    if engine.registry.environment(ENGINE) is None:
        print(f"bench runner: Inspect is left out; `modelops engines install {ENGINE}` brings it in", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.py"
        task.write_text(INSPECT_TASK)
        order = InspectOrder(
            file=task, url=f"{url}/v1", model=MODEL, seconds=300, concurrency=CONCURRENCY, arguments={"n": N}
        )
        run = replace(engine, work=Path(folder)).run(order, None, lambda line: None)
        stats = json.loads(run.logs[0].read_text())["stats"]
        assert run.found[0].task.n_unscored == 0, run.found[0].task.answers[0].explanation
    begun, ended = (datetime.fromisoformat(stats[name]) for name in ("started_at", "completed_at"))
    yield Figure("runner", "inspect_0ms_s", (ended - begun).total_seconds(), "s", "")


def _bare(url: str, stream: bool) -> float:
    suite = _suite(stream)
    bodies = [request_body(suite.spec, s, 0, MODEL) for s in suite.samples]

    async def ask() -> float:
        slots = asyncio.Semaphore(CONCURRENCY)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONCURRENCY)) as session:

            async def one(body: dict[str, Any]) -> None:
                async with slots, session.post(f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200
                    await (response.read() if stream else response.json())

            begun = time.perf_counter()
            await asyncio.gather(*(one(body) for body in bodies))
            return time.perf_counter() - begun

    return asyncio.run(ask())


def _ours(url: str, stream: bool) -> float:
    with tempfile.TemporaryDirectory() as folder:
        store = ScoreStore(Path(folder) / "scores")
        suite, where = _suite(stream), _endpoint(url)

        async def ask() -> float:
            begun = time.perf_counter()
            report, rows = await ask_suite(suite, where, lane="bench", run_id="r", work=Path(folder), land=store.land)
            took = time.perf_counter() - begun
            assert len(rows) == N and report.n_unscored == 0
            return took

        return event_loop.run(ask())


def _ttft(url: str) -> Figure:
    """How far TTFT is from when the server sent the same token, in the median, while others are served.

    Both processes read one monotonic clock.
    """
    body = request_body(_suite(True).spec, _suite(True).samples[0], 0, MODEL)

    async def ask() -> list[float]:
        """Each answer's error, as a share of its true time."""
        found: list[float] = []
        async with InferenceClient(f"{url}/v1", concurrency=CONCURRENCY) as client:

            async def work() -> None:
                for _ in range(TTFT_REQUESTS // CONCURRENCY):
                    asked = time.perf_counter()
                    got = await client.complete(body)
                    true_ms = (float(got.text) - asked) * 1000
                    assert true_ms >= FIRST_TOKEN_MS and got.ttft_ms is not None
                    found.append(abs(got.ttft_ms - true_ms) / true_ms)

            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return found

    asyncio.run(ask())
    errors = asyncio.run(ask())
    assert len(errors) == TTFT_REQUESTS
    return Figure("runner", "ttft_error", statistics.median(errors), "share", "<= 0.05")


def _suite(stream: bool) -> Suite:
    spec = {
        "name": "bench", "kind": "dataset", "title": "Bench", "samples": "bench.jsonl",
        "requests": {"concurrency": CONCURRENCY, "attempt_timeout_s": 60, "stream": stream},
    }  # fmt: skip
    meta = {"category": "bench/one", "scorer": "numeric", "max_tokens": 16}
    samples = [
        {"id": f"b{i}", "input": f"What is {i} plus 0? Answer with the number.", "target": str(i), "metadata": meta}
        for i in range(N)
    ]
    return Suite(spec=SuiteSpec.model_validate(spec), samples=tuple(Sample.model_validate(s) for s in samples))


def _endpoint(url: str) -> Endpoint:
    revision = ModelRevision(repo_id="bench/model", commit_hash="a" * 40)
    checkpoint = Checkpoint(revision=revision, scheme="raw", directory="/", digest="sha256:1", size_bytes=0)
    return Endpoint(
        name="bench", url=f"{url}/v1", served_model_name=MODEL, checkpoint=checkpoint, engine="bench",
        engine_version="1", rung="bench", ladder=(), start_seconds=0, tokens_per_second=0, max_context=4096,
    )  # fmt: skip


def _serve(pipe: Connection) -> None:
    """The server: /0 and /500 answer after so many ms, /ttft sends a role at once and its first token late."""

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        event = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return b"data: " + json.dumps(event).encode() + b"\n\n"

    usage_event = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}\n\ndata: [DONE]\n\n'

    async def answer(request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        body = await request.json()
        said = body["messages"][-1]["content"].split()[2]
        if not body.get("stream"):
            await asyncio.sleep(int(kind) / 1000)
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
            named = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            return web.json_response({**named, "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if kind != "ttft":
            await asyncio.sleep(int(kind) / 1000)
            await response.prepare(request)
            await response.write(chunk({"content": said}) + chunk({}, "stop") + usage_event)
            return response
        await response.prepare(request)
        await response.write(chunk({"role": "assistant", "content": ""}))
        await asyncio.sleep(FIRST_TOKEN_MS / 1000)
        await response.write(chunk({"content": f"{time.perf_counter():.6f}"}))
        await response.write(chunk({}, "stop") + usage_event)
        return response

    _go_first()

    async def forever() -> None:
        app = web.Application()
        app.router.add_post("/{kind}/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
        pipe.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(forever())
