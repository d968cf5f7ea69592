"""How long it takes to read what the installed engines support, and to judge a release on a local Hub."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figures import Figure
from modelops_dagster.clients.architectures import read_transformers, read_vllm
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.hardware import inventory
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.preflight import Surroundings, preflight
from modelops_dagster.services.hub_server import HubServer
from modelops_dagster.settings import Settings
from tests.fakes.hub import released, write_repo

REPEATS = 7


def _median_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def run() -> Iterator[Figure]:
    """Reading an engine's lists must cost a run nothing that anybody notices; importing vLLM takes half a minute."""
    settings = Settings.load()
    registry = EngineRegistry.from_settings(settings)
    for name in registry.installed_versions():
        environment = registry.environment(name)
        packages = next(iter(environment.glob("lib/python3*/site-packages")), None) if environment else None
        if packages is not None:
            taken = _median_s(lambda at=packages: (read_vllm(at), read_transformers(at)))  # type: ignore[misc]
            yield Figure("preflight", f"read_{name}_s", taken, "s", "< 1")
    with tempfile.TemporaryDirectory() as folder, HubServer(Path(folder) / "hub") as server:
        release = released(server, write_repo(Path(folder) / "model"))
        hub = HubClient(server.url, None)
        here = Surroundings(
            registry=registry,
            accelerator="cpu",
            store=CheckpointStore(Path(folder) / "store"),
            inventory=inventory("cpu", ""),
            max_context=2048,
            sequences=16,
        )
        yield Figure("preflight", "judge_s", _median_s(lambda: preflight(release, hub, here)), "s", "< 2")
