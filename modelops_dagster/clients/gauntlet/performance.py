"""Measure an endpoint under load, in a process of its own: another event loop's work would show up as latency.

`python -m modelops_dagster.clients.gauntlet.performance RESULT_FILE` reads one JSON line on standard input, sends
closed-loop load, prints progress as JSON lines and writes the result file last, in one piece. When standard input
closes, whoever asked is gone, and it stops.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.metrics import percentile
from modelops_dagster.domain.gauntlet.suite import Load, RequestLimits, SuiteSpec

LAG_INTERVAL_S = 0.01
_WORDS = (
    "river stone window garden paper silver market bridge candle forest letter summer winter harbor mountain engine "
    "valley kitchen library station village ocean thunder blanket compass lantern orchard painter journey meadow"
)
WORDS = tuple(_WORDS.split())


async def measure_load(
    spec: SuiteSpec,
    endpoint: Endpoint,
    progress: Callable[[float, float, str], None],
    api_key: str | None = None,
    *,
    transport: Chain | None = None,
) -> dict[str, Any]:
    """Start the load process, follow its progress, and return its result.

    The result: `levels` (each `concurrency`, `duration_s`, `requests` with every time in ms), `lag_p99_ms` of the load
    process's event loop, and `inference_seconds`.

    Raises:
        EvaluationFailed: the process broke or passed the suite's deadline.
    """
    with tempfile.TemporaryDirectory(prefix="modelops-load-") as folder:
        result = Path(folder) / "result.json"
        order = {
            "url": endpoint.url,
            "model": endpoint.served_model_name,
            "load": spec.performance.model_dump(mode="json") if spec.performance else {},
            "requests": spec.requests.model_dump(mode="json"),
            "temperature": spec.sampling.temperature,
            "api_key": api_key,
            "transport": (transport or Chain()).model_dump(mode="json"),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "modelops_dagster.clients.gauntlet.performance",
            str(result),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(spec.requests.deadline_s):
                said = await _follow(process, order, progress)
        except TimeoutError:
            raise EvaluationFailed(
                f"Suite {spec.name!r} passed its deadline of {spec.requests.deadline_s:g} s on {endpoint.name!r}: "
                "ask for less load, or raise requests.deadline_s."
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0 or not result.is_file():
            last = said.strip().splitlines()[-1:] or ["no message"]
            raise EvaluationFailed(f"The load process ended with {process.returncode}: {last[0][:300]}.")
        out: dict[str, Any] = json.loads(result.read_text())
        return out


async def _follow(
    process: asyncio.subprocess.Process, order: Mapping[str, Any], progress: Callable[[float, float, str], None]
) -> str:
    """Hand over the order, pass progress on, and return what the process wrote to standard error."""
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise RuntimeError("the load process has no pipes")
    errors = asyncio.ensure_future(process.stderr.read())
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        await process.stdin.drain()
    except ConnectionError:  # it ended before it read: what it said tells why
        return (await errors).decode(errors="replace")
    async for line in process.stdout:
        progress(*json.loads(line))
    await process.wait()
    return (await errors).decode(errors="replace")


def prompt(words: int) -> str:
    """Random words behind a random prefix, so that no cache of prefixes helps."""
    rng = random.Random(secrets.token_bytes(16))  # noqa: S311 - words, not secrets
    body = " ".join(rng.choice(WORDS) for _ in range(max(1, words - 12)))
    return f"{secrets.token_hex(6)}: write a story with these words: {body}"


class _LagMonitor:
    """How late the event loop wakes a sleeper, sampled all the time."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_INTERVAL_S)
            self.lags_ms.append(max(0.0, (time.perf_counter() - before - LAG_INTERVAL_S) * 1000))


class LoadRun:
    """Closed-loop load at each concurrency in turn: a slot sends its next request when its last one ended."""

    def __init__(self, order: Mapping[str, Any], say: Callable[[float, float, str], None]) -> None:
        self.load = Load.model_validate(order["load"])
        self.limits = RequestLimits.model_validate(order["requests"])
        self._order = order
        self._transport = Chain.model_validate(order["transport"])
        self._say = say
        self._ignores_eos = self.load.ignore_eos
        self._done = 0
        self._total = sum(self._count(c) for c in self.load.concurrencies)

    def _count(self, concurrency: int) -> int:
        return -(-self.load.requests // concurrency) * concurrency

    def _client(self, concurrency: int) -> InferenceClient:
        # no retries: a request that failed under load failed under load
        return InferenceClient(
            self._order["url"],
            concurrency=concurrency,
            attempt_timeout_s=self.limits.attempt_timeout_s,
            retries=0,
            api_key=self._order["api_key"],
            transport=self._transport,
        )

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._order["model"],
            "messages": [{"role": "user", "content": prompt(self.load.input_words)}],
            "max_tokens": self.load.output_tokens,
            "temperature": self._order["temperature"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._ignores_eos:
            body["ignore_eos"] = True
        return body

    async def measure(self) -> dict[str, Any]:
        """Warm up, then measure each level."""
        monitor = _LagMonitor()
        watching = asyncio.ensure_future(monitor.watch())
        levels: list[dict[str, Any]] = []
        busy_s = 0.0
        try:
            for concurrency in self.load.concurrencies:
                async with self._client(concurrency) as client:
                    await self._warm_up(client, concurrency if levels else max(self.load.warmups, concurrency))
                    levels.append(await self._level(client, concurrency))
                    busy_s += client.inference_seconds
        finally:
            watching.cancel()
        return {
            "levels": levels,
            "ignored_eos": self._ignores_eos,
            "lag_p99_ms": percentile(monitor.lags_ms, 0.99) if monitor.lags_ms else 0.0,
            "inference_seconds": busy_s,
        }

    async def _warm_up(self, client: InferenceClient, count: int) -> None:
        """Open the pool's connections, and learn whether the engine takes `ignore_eos`."""
        if self.load.warmups == 0:
            return
        short = {"max_tokens": 2}
        if self._ignores_eos and (await client.complete(self._body() | short)).error == "refused_request":
            self._ignores_eos = False
        await asyncio.gather(*(client.complete(self._body() | short) for _ in range(count)))

    async def _level(self, client: InferenceClient, concurrency: int) -> dict[str, Any]:
        count = self._count(concurrency)
        numbers = iter(range(count))
        records: list[dict[str, Any]] = []
        started = time.perf_counter()

        async def slot() -> None:
            for number in numbers:
                started_at = datetime.now(UTC)
                got = await client.complete(self._body())
                records.append(_record(concurrency, number, got, started_at))
                self._done += 1
                self._say(self._done, self._total, f"{concurrency} at a time")

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(slot())
        duration_s = time.perf_counter() - started
        return {
            "concurrency": concurrency,
            "duration_s": duration_s,
            "requests": sorted(records, key=lambda r: r["request"]),
        }


def _record(concurrency: int, number: int, got: Completion, started_at: datetime) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "request": number,
        "error": got.error,
        "error_detail": f"{got.error}: {got.error_detail}" if got.error else "",
        "tokens_in": got.tokens_in,
        "tokens_out": got.tokens_out,
        "client_queue_ms": got.client_queue_ms,
        "first_chunk_ms": got.first_chunk_ms,
        "ttft_ms": got.ttft_ms,
        "ttfot_ms": got.ttfot_ms,
        "tpot_ms": got.tpot_ms,
        "itl_ms": list(got.itl_ms),
        "e2el_ms": got.e2el_ms,
        "started_at": started_at.isoformat(),
    }


async def _child(result: Path) -> None:
    """The load process: order in, result file out."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())

    def say(done: float, total: float, text: str) -> None:
        sys.stdout.write(json.dumps([done, total, text]) + "\n")
        sys.stdout.flush()

    measuring = asyncio.ensure_future(LoadRun(order, say).measure())
    parent_gone = asyncio.ensure_future(reader.read())
    await asyncio.wait({measuring, parent_gone}, return_when=asyncio.FIRST_COMPLETED)
    if not measuring.done():
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
        return
    parent_gone.cancel()
    partial = result.with_suffix(".tmp")
    partial.write_text(json.dumps(await measuring))
    partial.replace(result)


if __name__ == "__main__":
    with contextlib.suppress(OSError):  # where we may: on a shared machine the clock reader goes before the engine
        os.nice(-10)
    asyncio.run(_child(Path(sys.argv[1])))
