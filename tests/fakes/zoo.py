"""A zoo of tiny models, a real controller with real engines, and where each model lands.

`python -m tests.fakes.zoo [NAME…]` climbs the whole ladder with every model and writes the golden table anew; with
names, only those models, and only to the terminal.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelops_dagster.client import ModelOpsClient, controller_folder
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engine_install import clean_environment
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.ladder import climb
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.engines import Rung, RungResult
from modelops_dagster.domain.errors import ModelParked
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.settings import Settings

MAKER = Path(__file__).with_name("make_zoo.py")
GOLDEN = Path(__file__).parents[1] / "golden" / "model_zoo.txt"
NAMES = (
    *("llama", "qwen3", "gemma3", "mistral", "phi3", "mixtral", "gpt2", "mamba", "bert", "llava"),
    *("unknown", "remote_code"),
)
PATIENCE_S = 900  # a vLLM start takes half a minute alone, and many on a machine that does other things
COLUMNS = "model | architecture | lands on | left before, and why"


def build(registry: EngineRegistry, cache: Path, folder: Path) -> dict[str, Checkpoint]:
    """Make every model of the zoo under `folder`."""
    tokenizer = ensure_demo_model(registry, cache, lambda _: None)
    env = registry.install("transformers", lambda _: None)
    argv = [str(env / "bin" / "python"), "-P", str(MAKER), str(tokenizer), str(folder)]
    environ = clean_environment(os.environ, env) | {"HF_HUB_OFFLINE": "1"}
    subprocess.run(argv, env=environ, check=True, stdout=subprocess.DEVNULL)
    return {name: _checkpoint(folder / name) for name in NAMES}


def _checkpoint(folder: Path) -> Checkpoint:
    config = json.loads((folder / "config.json").read_text())
    return Checkpoint(
        revision=ModelRevision(repo_id=f"zoo/{folder.name}", commit_hash="0" * 40),
        scheme="raw",
        directory=str(folder),
        digest=f"sha256:{folder.name}",
        size_bytes=(folder / "model.safetensors").stat().st_size,
        max_context=512,
        architectures=tuple(config["architectures"]),
    )


class Zoo:
    """The ladder over a running controller."""

    def __init__(self, client: ModelOpsClient, registry: EngineRegistry) -> None:
        self.client = client
        self.registry = registry

    def line(self, checkpoint: Checkpoint, rungs: Sequence[Rung] | None = None) -> str:
        """The model's row of the golden table.

        Random weights write noise, so what is written is taken as it comes: this asks what loads and answers.
        """
        name = checkpoint.revision.repo_id.partition("/")[2]
        landed, ladder = self.land(checkpoint, rungs, min_tokens_per_second=1e-3, any_text=True)
        left = "; ".join(_left(result) for result in ladder if result.reason is not None) or "-"
        return " | ".join((name, ", ".join(checkpoint.architectures), landed, left))

    def land(
        self, checkpoint: Checkpoint, rungs: Sequence[Rung] | None = None, **bars: Any
    ) -> tuple[str, tuple[RungResult, ...]]:
        """The rung it lands on, or `parked`, and what every rung did. The endpoint is gone afterwards."""
        name = checkpoint.revision.repo_id.partition("/")[2]
        try:
            found = climb(
                checkpoint,
                self.registry.rungs("cpu", checkpoint.architectures) if rungs is None else rungs,
                self.client,
                self.registry,
                endpoint_name=f"zoo-{name.replace('_', '-')}",
                served_model_name=f"zoo/{name}",
                max_context=512,
                progress=lambda text: print(f"zoo: {name}: {text}", file=sys.stderr, flush=True),
                **bars,
            )
        except ModelParked as parked:
            return "parked", parked.ladder
        self.client.delete(found.name, found.name)
        self.client.wait_deleted(found.name, 60)
        return found.rung, found.ladder


def _left(result: RungResult) -> str:
    """The reason of a rung without what differs from start to start."""
    detail = re.sub(r"/\S*/(?=\S)", "", result.detail)
    detail = re.sub(r"0x[0-9a-f]+|pid=\d+", "…", detail)
    return f"{result.rung}: {result.reason} ({detail.rstrip('.')[:160]})"


@contextmanager
def zoo(folder: Path, settings: Settings) -> Iterator[Zoo]:
    """A controller of its own for the home `folder`, whose engines are given time."""
    engines = folder / "engines-with-patience"
    shutil.copytree(settings.engines, engines)
    for path in engines.glob("*/engine.yaml"):
        path.write_text(re.sub(r"start_timeout_s: .*", f"start_timeout_s: {PATIENCE_S}", path.read_text()))
    home = folder / "home"
    environ = {
        **os.environ,
        "MODELOPS_HOME": str(home),
        "MODELOPS_ENGINES": str(engines),
        "MODELOPS_CACHE": str(settings.cache),
        "MODELOPS_CONTROLLER_PORT": "0",
    }
    home.mkdir(parents=True)
    with (folder / "controller.log").open("wb") as log:
        argv = [sys.executable, "-m", "modelops_dagster.services.controller"]
        process = subprocess.Popen(argv, env=environ, stdout=log, stderr=log)
    try:
        address = controller_folder(home) / "address.json"
        deadline = time.monotonic() + 120
        while not address.is_file():
            assert process.poll() is None, (folder / "controller.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        client = ModelOpsClient.from_settings(Settings.load(environ), timeout_s=60)
        registry = EngineRegistry(engines, settings.cache)
        yield Zoo(client, registry)
        client.close()
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    settings = Settings.load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        registry = EngineRegistry(settings.engines, settings.cache)
        checkpoints = build(registry, settings.cache, folder / "models")
        lines = []
        with zoo(folder, settings) as place:
            for name in sys.argv[1:] or NAMES:
                lines.append(place.line(checkpoints[name]))
                print(lines[-1], flush=True)
    if not sys.argv[1:]:
        GOLDEN.write_text("\n".join([COLUMNS, *lines]) + "\n")


if __name__ == "__main__":
    main()
