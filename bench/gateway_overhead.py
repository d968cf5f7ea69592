"""What the gateway's gate and plugin cost on top of LiteLLM: both proxies side by side, one worker each, one engine.

The stock proxy runs the same version with the same Router settings, a fixed list of models, and its own master key. The
two are asked in turn, call by call for the latency and slice by slice for the throughput, so that whatever else the
machine does falls on both.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench.figures import Figure
from modelops_dagster.services.gateway.config import UNSET, litellm_config, litellm_environment
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, target

STOCK_KEY = "sk-stock-proxy-of-the-benchmark"
PAIRS = 300
SLICES = 20
CALLS_PER_SLICE = 160
CONCURRENCY = 8
START_TIMEOUT_S = 180
BODY = {"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}]}
SERVE = """
import os, sys, uvicorn
from litellm.proxy.proxy_server import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


def run(pairs: int = PAIRS, slices: int = SLICES, calls: int = CALLS_PER_SLICE) -> Iterator[Figure]:
    """Yields the throughput as a ratio and the added latency, ours against the stock proxy."""
    with tempfile.TemporaryDirectory() as folder, FakeBackend("alpha") as alpha:
        home = Path(folder)
        gateway = Gateway(home, workers=1)
        try:
            with stock_proxy(home, alpha.url) as stock_url:
                gateway.wait_ready()
                gateway.put(ALIAS, target(alpha))
                proxies = {"ours": (gateway.url, gateway.key()), "stock": (stock_url, STOCK_KEY)}
                latencies = _latencies(proxies, pairs)
                speeds = asyncio.run(_throughput(proxies, slices, calls))
        finally:
            gateway.stop()
    added_s = statistics.median(a - b for a, b in zip(latencies["ours"], latencies["stock"], strict=True))
    against = "stock LiteLLM of the same version, in turn"
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["stock"], strict=True))
    yield Figure("gateway_overhead", "throughput_ratio", ratio, "", f">= 0.95 of {against}")
    yield Figure("gateway_overhead", "p50_added_ms", added_s * 1e3, "ms", f"<= 1, {against}")
    for name in proxies:
        yield Figure("gateway_overhead", f"{name}_p50_ms", statistics.median(latencies[name]) * 1e3, "ms", "")
        yield Figure("gateway_overhead", f"{name}_calls_per_s", statistics.median(speeds[name]), "1/s", "")


@contextmanager
def stock_proxy(home: Path, engine_url: str) -> Iterator[str]:
    """LiteLLM's proxy as it comes, in a process of its own, with one model."""
    config = home / "stock.yaml"
    params = {"model": f"hosted_vllm/{ALIAS}", "api_base": engine_url, "api_key": "none"}
    params |= {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY", "disable_spend_logs": True}
    document = {
        "model_list": [{"model_name": ALIAS, "litellm_params": params}],
        "router_settings": litellm_config()["router_settings"],
        "general_settings": general,
    }
    config.write_text(yaml.safe_dump(document))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {k: v for k, v in os.environ.items() if k not in UNSET} | litellm_environment(config, STOCK_KEY)
    with (home / "stock.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(port)], env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health/liveliness", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError("the stock proxy did not start")


def _latencies(proxies: dict[str, tuple[str, str]], pairs: int) -> dict[str, list[float]]:
    """Seconds of each call; the two proxies are asked in turn, one call at a time."""
    found: dict[str, list[float]] = {name: [] for name in proxies}
    clients = {name: _client(url, key) for name, (url, key) in proxies.items()}
    for number in range(pairs + 20):
        for name, client in clients.items() if number % 2 else reversed(clients.items()):
            begun = time.perf_counter()
            answer = client.post("/v1/chat/completions", json=BODY)
            took = time.perf_counter() - begun
            assert answer.status_code == 200, answer.text
            if number >= 20:  # the first ones warm both up
                found[name].append(took)
    return found


async def _throughput(proxies: dict[str, tuple[str, str]], slices: int, calls: int) -> dict[str, list[float]]:
    """Calls per second of each slice."""
    found: dict[str, list[float]] = {name: [] for name in proxies}
    for number in range(slices):
        for name, (url, key) in proxies.items() if number % 2 else reversed(proxies.items()):
            found[name].append(await _slice(url, key, calls))
    return found


async def _slice(url: str, key: str, calls: int) -> float:
    left = iter(range(calls))
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def ask() -> None:
            for _ in left:
                answer = await client.post("/v1/chat/completions", json=BODY)
                assert answer.status_code == 200, answer.text

        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(CONCURRENCY)))
        return calls / (time.perf_counter() - begun)


def _client(url: str, key: str) -> Any:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60)
