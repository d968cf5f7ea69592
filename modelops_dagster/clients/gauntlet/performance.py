"""Measure an endpoint under load, in a process of its own: another event loop's work would show up as latency.

`python -m modelops_dagster.clients.gauntlet.performance RESULT_FILE` reads one JSON line on standard input, sends the
load, prints progress as JSON lines and writes the result file last, in one piece. When standard input closes, whoever
asked is gone, and it stops.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelops_dagster.clients.gauntlet.load_run import LoadRun
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.suite import SuiteSpec


async def measure_load(
    spec: SuiteSpec,
    endpoint: Endpoint,
    progress: Callable[[float, float, str], None],
    api_key: str | None = None,
    *,
    transport: Chain | None = None,
) -> dict[str, Any]:
    """Start the load process, follow its progress, and return its result.

    The result: `levels` (each `concurrency` or `rate`, `duration_s`, `requests` with every time in ms), `lag_p99_ms` of
    the load process's event loop, and `inference_seconds`.

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
