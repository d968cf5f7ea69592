"""Checkpoints made from others, beside them in the store: `<commit>-<scheme>-<digest of all that went in>/`.

What is made is written into `<name>.partial` and nothing in it is ever resumed: a quantizer cannot. The manifest is
written in there, and the rename that follows makes the checkpoint whole in one step.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.clients.checkpoints.digests import hash_file, read_safetensors_header
from modelops_dagster.clients.checkpoints.manifests import write_manifest
from modelops_dagster.clients.checkpoints.store import CheckpointStore
from modelops_dagster.domain.checkpoints import Checkpoint, Derivation, Manifest, ManifestFile
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.repo_files import is_weight
from modelops_dagster.domain.schemes import Scheme

READ_ONLY = 0o444


def ensure_derived(
    store: CheckpointStore,
    source: Checkpoint,
    name: str,
    scheme: Scheme,
    make: Callable[[Path], Derivation],
    on_wait: Callable[[], None] | None = None,
) -> Checkpoint:
    """Make a derived checkpoint be there, and return it. Safe to call twice, at once, and after a kill.

    One that is there is compared with its manifest, every byte, and made again when it is damaged.

    Args:
        store: where it is kept.
        source: what it is made from.
        name: of its directory, from `domain.quantization.derived_name`.
        scheme: what it is quantized to.
        make: fills an empty folder and says how.
        on_wait: called now and then while another process makes the same one.

    Raises:
        IntegrityError: what was made is no checkpoint.
        Conflict: another process took over while this one stood still.
        Whatever `make` raises; nothing is left then but a folder that the next call removes.
    """
    directory = Path(source.directory).with_name(name)
    if whole := _intact(store, directory):
        return whole
    partial = directory.with_name(f"{name}.partial")
    with claim(directory.with_name(f"{name}.claim"), on_wait=on_wait) as held:
        if whole := _intact(store, directory):
            return whole
        for left in (partial, directory):  # of a process that was killed, or damaged
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
        try:
            derivation = make(partial)
            files = _seal(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        manifest = Manifest(
            revision=source.revision,
            scheme=scheme,
            source=source.directory,
            files=files,
            derivation=derivation,
            remote_code=source.remote_code,
        )
        write_manifest(partial, manifest)
        held.confirm()
        partial.rename(directory)
    found = store.read(directory)
    if found is None:
        raise IntegrityError(f"{directory} was removed while it was being written: run it again.")
    return found


def _intact(store: CheckpointStore, directory: Path) -> Checkpoint | None:
    whole = store.read(directory)
    return None if whole is None or store.verify(whole) else whole


def _seal(folder: Path) -> tuple[ManifestFile, ...]:
    """Hash every file, put it on the disk for good and make it read-only."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.is_symlink():
            raise IntegrityError(f"{path} is a symbolic link, which a checkpoint never holds: quantize it again.")
        relative = path.relative_to(folder).as_posix()
        if is_weight(relative):
            read_safetensors_header(path)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        size_bytes, sha256, _ = hash_file(path)
        path.chmod(READ_ONLY)
        files.append(ManifestFile(path=relative, size_bytes=size_bytes, sha256=sha256))
    if not any(is_weight(f.path) for f in files):
        raise IntegrityError(f"{folder} holds no weights: quantize it again, and look at the quantizer's log.")
    return tuple(files)
