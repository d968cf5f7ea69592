"""A store with one released checkpoint, and the fake quantizer installed as `llmcompressor`."""

import json
from pathlib import Path

import yaml

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.store import MANIFEST_NAME
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.checkpoints import Checkpoint, Manifest, ManifestFile
from modelops_dagster.domain.hub import ModelRevision
from tests.e2e.scenery import write_model

FAKE = Path(__file__).parents[1] / "fakes" / "quantizer.py"
REVISION = ModelRevision(repo_id="acme/one", commit_hash="a" * 40)


def write_quantizer(engines: Path, *command: str, accelerator: str = "cpu") -> None:
    """The engine `llmcompressor` that is the fake one, or runs another command."""
    folder = engines / "llmcompressor"
    folder.mkdir(parents=True)
    manifest = {
        "name": "llmcompressor",
        "summary": "the fake quantizer of the tests",
        "version": "1.0",
        "serves": False,
        "accelerators": [accelerator],
        "python": ">=3.11",
        "platforms": ["linux-x86_64", "linux-aarch64"],
        "command": list(command) or ["{env}/bin/python", "-S", str(FAKE)],
    }
    (folder / "engine.yaml").write_text(yaml.safe_dump(manifest))
    (folder / "requirements.lock").write_text("# nothing but the interpreter\n")


def install_quantizer(engines: Path, cache: Path) -> EngineRegistry:
    write_quantizer(engines)
    registry = EngineRegistry(engines, cache)
    registry.install("llmcompressor", lambda line: None)
    return registry


def put_checkpoint(store: CheckpointStore, model: Path | None = None, **config: object) -> Checkpoint:
    """A whole released checkpoint in the store: a copy of `model`, or a tiny one made up with this configuration."""
    directory = store.directory(REVISION)
    if model is None:
        write_model(directory, **config)
    else:
        directory.mkdir(parents=True)
        for path in model.iterdir():
            (directory / path.name).symlink_to(path) if path.suffix == ".safetensors" else (
                directory / path.name
            ).write_bytes(path.read_bytes())
    files = tuple(
        ManifestFile(path=p.name, size_bytes=p.stat().st_size, sha256="0" * 64) for p in sorted(directory.iterdir())
    )
    manifest = Manifest(revision=REVISION, source="http://hub/acme/one", files=files)
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest.model_dump(mode="json")))
    found = store.read(directory)
    assert found is not None
    return found
