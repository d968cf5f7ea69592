"""Weights flipped while applications stream: does a call fail, and how soon does every worker follow?

The real gateway with two workers, two engines on loopback, and a steady 20 streaming calls a second. A flip is one
change of the route document; it is visible when every worker says that it serves the version. Before the first flip
the same calls are made for a while: where they fail then, the machine cannot serve so many, and no flip is the cause.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench.figures import Figure
from modelops_dagster.domain.gateway import with_weights
from tests.fakes.backend import FakeBackend
from tests.fakes.threads import UntilLeft
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, target

FLIPS = 1_000
CALLS_PER_S = 20.0
PAUSE_S = 0.05
CALM_S = 10.0


def run(flips: int = FLIPS, calls_per_s: float = CALLS_PER_S) -> Iterator[Figure]:
    """Yields the failed calls and the time until a flip was visible in all workers."""
    with tempfile.TemporaryDirectory() as folder, FakeBackend("alpha") as alpha, FakeBackend("beta") as beta:
        alpha.token_delay_s = beta.token_delay_s = 0.02
        gateway = Gateway(Path(folder))
        try:
            gateway.wait_ready()
            gateway.put(ALIAS, target(alpha, weight=1), target(beta, weight=0))
            with SteadyLoad(gateway.url, gateway.key(), calls_per_s) as load:
                time.sleep(CALM_S)
                begun = time.monotonic()
                times = sorted(_flips(gateway, flips))
        finally:
            gateway.stop()
    against = f"{flips} flips, {calls_per_s:g} streaming calls a second"
    before = [told for made_at, told in load.failures if made_at < begun]
    for told, count in Counter(told for _, told in load.failures).most_common(3):
        print(f"bench route_flips: {count} calls failed: {told}", file=sys.stderr)
    yield Figure("route_flips", "failed_before_flips", len(before), "count", "0, else the machine is too busy to tell")
    yield Figure("route_flips", "failed_requests", len(load.failures) - len(before), "count", "0")
    yield Figure("route_flips", "requests", load.made, "count", against)
    yield Figure("route_flips", "answered_by_both", len(load.answered_by), "count", "2")
    yield Figure("route_flips", "visible_p50_s", times[len(times) // 2], "s", against)
    yield Figure("route_flips", "visible_p99_s", times[int(0.99 * (len(times) - 1))], "s", "< 1")


def _flips(gateway: Gateway, flips: int) -> Iterator[float]:
    """Seconds from each change until it was visible, asked for every 20 ms on one connection."""
    with httpx.Client(base_url=gateway.url, timeout=60) as http:
        for number in range(flips):
            to_beta = number % 2 == 0
            begun = time.monotonic()
            old = gateway.routes.get(ALIAS)
            assert old is not None
            weights = {"alpha": int(not to_beta), "beta": int(to_beta)}
            written = gateway.routes.put(with_weights(old, weights, at=datetime.now(UTC)), old.version)
            while http.get(f"/modelops/routes/{ALIAS}").json()["version"] != written.version:
                time.sleep(0.02)
            yield time.monotonic() - begun
            time.sleep(PAUSE_S)
            if number % 100 == 99:
                print(f"bench route_flips: {number + 1} flips", file=sys.stderr)


class SteadyLoad(UntilLeft):
    """Streaming calls at a fixed rate, whatever becomes of those before, until it is left."""

    def __init__(self, url: str, key: str, calls_per_s: float) -> None:
        super().__init__()
        self.failures: list[tuple[float, str]] = []  # when it was made, what became of it
        self.answered_by: set[str] = set()
        self.made = 0
        self._url, self._interval_s = url, 1 / calls_per_s
        self._headers = {"authorization": f"Bearer {key}"}

    async def make_calls(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        async with httpx.AsyncClient(timeout=60, limits=limits, headers=self._headers) as client:
            calls: set[asyncio.Task[None]] = set()
            due = time.monotonic()
            while not self.over.is_set():
                task = asyncio.create_task(self._one(client))
                calls.add(task)
                task.add_done_callback(calls.discard)
                due += self._interval_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*calls)

    async def _one(self, client: httpx.AsyncClient) -> None:
        body = {"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
        self.made += 1
        made_at = time.monotonic()
        try:
            answer = await client.post(f"{self._url}/v1/chat/completions", json=body)
            names = {name for name in ("alpha", "beta") if name in answer.text}
            whole = answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]") and len(names) == 1
            self.answered_by |= names
            if not whole:
                self.failures.append((made_at, answer.text[:200]))
        except httpx.HTTPError as error:
            self.failures.append((made_at, repr(error)))
