"""An engine's start command by hand, with nothing of the platform around it: what ours is measured against."""

import time
from pathlib import Path

import httpx

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.processes import free_port, spawn, stop_group
from modelops_dagster.domain.endpoints import EndpointSpec


def seconds_to_ready(registry: EngineRegistry, spec: EndpointSpec, folder: Path, timeout_s: float) -> float:
    """Seconds from starting the command until it lists its model; it is stopped again.

    Raises:
        RuntimeError: it did not list one in time.
    """
    port = free_port("127.0.0.1")
    launch = registry.launch(spec, "127.0.0.1", port)
    log = folder / "bare.log"
    begun = time.monotonic()
    engine = spawn(launch.argv, launch.environ, log, folder)
    try:
        while time.monotonic() - begun < timeout_s:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2).status_code == 200:
                    return time.monotonic() - begun
            except httpx.HTTPError:
                time.sleep(0.1)
            time.sleep(0.05)
        raise RuntimeError(f"the bare engine did not answer within {timeout_s} s: {log.read_text()[-500:]}")
    finally:
        stop_group(engine, grace_s=10)
