"""Checkpoints in a store, made of one small file."""

from pathlib import Path
from typing import Any

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.manifests import write_manifest
from modelops_dagster.domain.checkpoints import Checkpoint, Manifest, ManifestFile
from modelops_dagster.domain.hub import ModelRevision


def stored(root: Path, commit: str, scheme: str = "raw", **changes: Any) -> Checkpoint:
    """A checkpoint in the store, of one small file."""
    store = CheckpointStore(root)
    revision = ModelRevision(repo_id="acme/small", commit_hash=commit)
    directory = store.directory(revision)
    directory = directory if scheme == "raw" else directory.with_name(f"{commit}-{scheme.lower()}")
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}')
    file = ManifestFile(path="config.json", size_bytes=1, sha256=f"{commit}{scheme}".ljust(64, "0")[:64])
    fields = {"revision": revision, "scheme": scheme, "source": "test", "files": (file,), **changes}
    write_manifest(directory, Manifest.model_validate(fields))
    found = store.read(directory)
    assert found is not None
    return found
