"""Real engines. Environments and the demonstration model live in the user's cache, so only the first run pays."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry, has_gpu
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.settings import Settings
from tests.fakes.real_engine import MAX_CONTEXT, NAME, Running, Start, wait_ready


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.load()


@pytest.fixture(scope="module")
def registry(settings: Settings) -> EngineRegistry:
    return EngineRegistry.from_settings(settings)


@pytest.fixture(scope="module")
def model(registry: EngineRegistry, settings: Settings) -> Path:
    begun = time.monotonic()
    path = ensure_demo_model(registry, settings.cache, print)
    print(f"\ndemonstration model after {time.monotonic() - begun:.1f} s at {path}")
    return path


@pytest.fixture(scope="module")
def start(registry: EngineRegistry, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Start an engine; with `wait`, until the served model name answers."""

    def begin(
        engine: str, checkpoint: Path, *, wait: bool = True, port: int | None = None, served: str = NAME
    ) -> Running:
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
            served_model_name=served,
            max_context=MAX_CONTEXT,
            gpus=int(has_gpu() and "cuda" in registry.manifest(name).accelerators),
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
            wait_ready(running)
            running.start_seconds = time.monotonic() - begun
            print(f"{engine} ready after {running.start_seconds:.1f} s")
        return running

    return begin


@pytest.fixture(scope="module")
def ours(start: Start, model: Path) -> Iterator[Running]:
    """Our own server, for what only it promises."""
    running = start("transformers", model)
    try:
        yield running
    finally:
        running.stop()
