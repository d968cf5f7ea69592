"""Fifty endpoints on one machine: what the controller needs for them, and how soon it answers and acts.

Each engine is the small stand-in of the tests, a process with a port, so what is measured is the controller's own work:
starting, watching and telling. The engines answer at once.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Figure
from modelops_dagster.domain.endpoints import EndpointSpec
from tests.fakes.stack import Stack, wait_until

ENDPOINTS = 50
QUIET_S = 20.0
ASKED = 100
REACTIONS = 20


def run() -> Iterator[Figure]:
    """Yields start, memory, CPU at rest, latency of list and show, and how soon a wish and a death are acted upon."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        try:
            stack.up("--tick", "1")  # as the real one looks
            yield from _measure(stack)
        finally:
            stack.down()


def _measure(stack: Stack) -> Iterator[Figure]:
    assert stack.program is not None
    controller = psutil.Process(stack.program.pid)
    alone = controller.memory_info().rss
    begun = time.perf_counter()
    specs = [stack.spec(name=f"endpoint-{number:02d}") for number in range(ENDPOINTS)]
    for spec in specs:
        stack.client.apply(spec)
    asked_s = time.perf_counter() - begun
    wait_until(lambda: sum(s.url is not None for s in stack.client.list()), lambda n: n == ENDPOINTS, timeout_s=300)
    yield _figure("all_running_s", time.perf_counter() - begun, "s")
    yield _figure("apply_ms", asked_s / ENDPOINTS * 1000, "ms")
    print(f"bench endpoints: {ENDPOINTS} run", file=sys.stderr)

    before, since = controller.cpu_times(), time.perf_counter()
    time.sleep(QUIET_S)
    after = controller.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    yield _figure("idle_cpu_percent", used_s / (time.perf_counter() - since) * 100, "% of a core", "< 25")
    yield _figure("rss_mib", controller.memory_info().rss / 2**20, "MiB", "< 300")
    yield _figure("rss_per_endpoint_kib", (controller.memory_info().rss - alone) / ENDPOINTS / 2**10, "KiB")

    yield from _latency("list", stack.client.list)
    yield from _latency("show", lambda: stack.client.get("endpoint-07"))
    yield from _reactions(stack, specs)
    begun = time.perf_counter()
    stack.terminate()
    yield _figure("all_ended_s", time.perf_counter() - begun, "s")


def _latency(name: str, ask: Callable[[], Any]) -> Iterator[Figure]:
    taken = []
    for _ in range(ASKED):
        begun = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - begun) * 1000)
    yield _figure(f"{name}_p50_ms", statistics.median(taken), "ms")
    yield _figure(f"{name}_p99_ms", sorted(taken)[int(0.99 * (ASKED - 1))], "ms", "< 100")


def _reactions(stack: Stack, specs: list[EndpointSpec]) -> Iterator[Figure]:
    """From a killed engine, or a stop, to the record that says so."""
    noticed, stopped = [], []
    for spec in specs[:REACTIONS]:
        status = stack.client.get(spec.name)
        assert status is not None
        begun = time.perf_counter()
        psutil.Process(status.pid).kill()
        wait_until(lambda name=spec.name: stack.client.get(name), lambda s: s and s.url is None)  # type: ignore[misc]
        noticed.append((time.perf_counter() - begun) * 1000)
    for spec in specs[REACTIONS : 2 * REACTIONS]:
        begun = time.perf_counter()
        stack.client.stop(spec.name)
        stack.client.wait_stopped(spec.name)
        stopped.append((time.perf_counter() - begun) * 1000)
    yield _figure("death_noticed_p50_ms", statistics.median(noticed), "ms", "< 1500")
    yield _figure("stop_p50_ms", statistics.median(stopped), "ms")


def _figure(metric: str, value: float, unit: str, against: str = "") -> Figure:
    return Figure("endpoints", metric, value, unit, against)
