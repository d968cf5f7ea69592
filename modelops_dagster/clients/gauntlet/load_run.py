"""The load itself: a closed loop at each concurrency, then an open loop at each rate, every request recorded."""

import asyncio
import math
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.load import Load, OpenLoop
from modelops_dagster.domain.gauntlet.load_times import poisson_arrivals
from modelops_dagster.domain.gauntlet.metrics import percentile
from modelops_dagster.domain.gauntlet.suite import RequestLimits

LAG_INTERVAL_S = 0.01
_WORDS = (
    "river stone window garden paper silver market bridge candle forest letter summer winter harbor mountain engine "
    "valley kitchen library station village ocean thunder blanket compass lantern orchard painter journey meadow"
)
WORDS = tuple(_WORDS.split())


def prompt(words: int, shared: int = 0) -> str:
    """Random words behind a random prefix, so that no cache of prefixes helps; behind `shared` words that never change,
    so that one does."""
    rng = random.Random(secrets.token_bytes(16))  # noqa: S311 - words, not secrets
    body = " ".join(rng.choice(WORDS) for _ in range(max(1, words - 12)))
    same = "".join(f"{WORDS[(7 * i + i // len(WORDS)) % len(WORDS)]} " for i in range(shared))
    return f"{same}{secrets.token_hex(6)}: write a story with these words: {body}"


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
    """Every level of load in turn.

    In a closed loop a slot sends its next request when its last one ended; in an open loop a request is sent when it is
    due, however many are out.
    """

    def __init__(self, order: Mapping[str, Any], say: Callable[[float, float, str], None]) -> None:
        self.load = Load.model_validate(order["load"])
        self.limits = RequestLimits.model_validate(order["requests"])
        self._order = order
        self._transport = Chain.model_validate(order["transport"])
        self._say = say
        self._ignores_eos = self.load.ignore_eos
        self._done = 0
        self._total = sum(self._count(c) for c in self.load.concurrencies)
        if self.load.open_loop is not None:
            self._total += self.load.open_loop.requests * len(self.load.open_loop.rates)

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
            "messages": [{"role": "user", "content": prompt(self.load.input_words, self.load.shared_words)}],
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
                    levels.append(await self._closed(client, concurrency))
                    busy_s += client.inference_seconds
            if (wanted := self.load.open_loop) is not None:
                for rate in wanted.rates:
                    async with self._client(wanted.max_in_flight) as client:
                        await self._warm_up(client, min(wanted.max_in_flight, _in_flight(levels, rate)))
                        levels.append(await self._open(client, wanted, rate))
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

    async def _closed(self, client: InferenceClient, concurrency: int) -> dict[str, Any]:
        numbers = iter(range(self._count(concurrency)))
        records: list[dict[str, Any]] = []
        begun = time.perf_counter()

        async def slot() -> None:
            for number in numbers:
                started_at = datetime.now(UTC)
                got = await client.complete(self._body())
                records.append({"concurrency": concurrency, "rate": None, **_record(number, got, started_at)})
                self._count_one(f"{concurrency} at a time")

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(slot())
        return _level({"concurrency": concurrency, "rate": None}, begun, records)

    async def _open(self, client: InferenceClient, wanted: OpenLoop, rate: float) -> dict[str, Any]:
        records: list[dict[str, Any]] = []
        bodies = [self._body() for _ in range(wanted.requests)]  # nothing is made up while the clock runs
        begun, begun_at = time.perf_counter(), datetime.now(UTC)

        async def one(number: int, due_s: float) -> None:
            await asyncio.sleep(max(0.0, begun + due_s - time.perf_counter()))
            late_ms = max(0.0, (time.perf_counter() - begun - due_s) * 1000)
            got = await client.complete(bodies[number])
            record = _record(number, got, begun_at, after_s=due_s, late_ms=late_ms)
            records.append({"concurrency": None, "rate": rate, **record})
            self._count_one(f"{rate:g} requests/s")

        async with asyncio.TaskGroup() as group:
            for number, due_s in enumerate(poisson_arrivals(rate, wanted.requests, wanted.seed)):
                group.create_task(one(number, due_s))
        return _level({"concurrency": None, "rate": rate}, begun, records)

    def _count_one(self, text: str) -> None:
        self._done += 1
        self._say(self._done, self._total, text)


def _in_flight(levels: list[dict[str, Any]], rate: float) -> int:
    """Connections that an open loop will want: by Little's law rate x latency, and as many again."""
    lasted = [r["e2el_ms"] for level in levels for r in level["requests"] if r["e2el_ms"] is not None]
    return max(1, math.ceil(2 * rate * percentile(lasted, 0.5) / 1000)) if lasted else 1


def _level(what: dict[str, Any], begun: float, records: list[dict[str, Any]]) -> dict[str, Any]:
    duration_s = time.perf_counter() - begun
    return {**what, "duration_s": duration_s, "requests": sorted(records, key=lambda r: r["request"])}


def _record(
    number: int, got: Completion, started_at: datetime, *, after_s: float = 0.0, late_ms: float = 0.0
) -> dict[str, Any]:
    """One request. It was to start `after_s` after `started_at`, and the client was `late_ms` late with it.

    Without usage a chunk is taken for a token, and `tokens_out_source` says so.
    """
    chunks = len(got.itl_ms) + 1 if got.ttft_ms is not None else 0
    source = "usage" if got.tokens_out is not None else "chunks" if chunks else None
    if source == "chunks":
        got = replace(got, tokens_out=chunks)
    return {
        "request": number,
        "error": got.error,
        "error_detail": f"{got.error}: {got.error_detail}" if got.error else "",
        "tokens_in": got.tokens_in,
        "tokens_out": got.tokens_out,
        "tokens_out_source": source,
        "tokens_per_chunk": got.tokens_out / chunks if got.tokens_out and chunks else None,
        "client_queue_ms": late_ms + got.client_queue_ms,
        "first_chunk_ms": got.first_chunk_ms,
        "ttft_ms": got.ttft_ms,
        "ttfot_ms": got.ttfot_ms,
        "tpot_ms": got.tpot_ms,
        "itl_ms": list(got.itl_ms),
        "chunk_gaps_ms": list(got.chunk_gaps_ms),
        "e2el_ms": got.e2el_ms,
        "started_at": (started_at + timedelta(seconds=after_s)).isoformat(),
    }
