"""The manifest in a checkpoint's directory, and the note beside it of when its bytes were last compared with it."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from modelops_dagster.clients.processes import boot_id
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.checkpoints import Manifest
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.values import Value

MANIFEST_NAME = ".modelops-manifest.json"
PARTIAL_SUFFIX = ".partial"
READ_ONLY = 0o444


class Verification(Value):
    """When every byte of a checkpoint was last compared with its manifest, and what its files looked like then."""

    at: float = Field(description="seconds since the epoch, of the machine that did it")
    boot_id: str = Field(description="of that machine; after a power cut, what it wrote last may not be on the disk")
    digest: str = Field(description="of the manifest")
    stamps: Mapping[str, tuple[int, int]] = Field(description="path -> size in bytes, mtime in nanoseconds")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a checkpoint directory; None when the directory is not whole, or not there.

    Raises:
        IntegrityError: there is one, and it cannot be read.
    """
    path = directory / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise IntegrityError(f"{path} is not a manifest: delete {directory} and fetch it again.") from error


def whole_directories(repository: Path) -> list[Path]:
    """Every checkpoint of a repository, released or made here, the newest first.

    Args:
        repository: the folder with one directory per checkpoint.
    """
    manifests = [p for p in repository.glob(f"*/{MANIFEST_NAME}") if p.is_file()]
    newest_first = sorted(manifests, key=lambda p: p.stat().st_mtime, reverse=True)
    # one that is made here gets its manifest while it still has the other name
    return [p.parent for p in newest_first if not p.parent.name.endswith(PARTIAL_SUFFIX)]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Declare the directory whole."""
    staged = directory / f"{MANIFEST_NAME}.tmp"
    with staged.open("w") as out:
        out.write(manifest.model_dump_json(indent=1))
        out.flush()
        os.fsync(out.fileno())
    staged.chmod(READ_ONLY)
    staged.replace(directory / MANIFEST_NAME)


def note_verified(directory: Path, manifest: Manifest) -> None:
    """Note that every byte was compared with the manifest just now."""
    stamps = {f.path: _stamp(directory / f.path) for f in manifest.files}
    note = Verification(at=time.time(), boot_id=boot_id(), digest=manifest.digest, stamps=stamps)
    write_whole(verification_path(directory), note.model_dump_json(), is_durable=False)


def forget_verified(directory: Path) -> None:
    """Nothing is known of the bytes any more, so whoever asks next reads them."""
    verification_path(directory).unlink(missing_ok=True)


def is_verified(directory: Path, manifest: Manifest, within_s: float) -> bool:
    """Whether this machine did that so recently that it need not do it again: no file has been written to since."""
    note = read_verification(directory)
    if note is None or (note.digest, note.boot_id) != (manifest.digest, boot_id()):
        return False
    if not 0 <= time.time() - note.at <= within_s:
        return False
    try:
        return all(note.stamps.get(f.path) == _stamp(directory / f.path) for f in manifest.files)
    except OSError:
        return False


def read_verification(directory: Path) -> Verification | None:
    """The note; None when there is none, or it is not one: then the bytes are read again, which is what it saves."""
    try:
        return Verification.model_validate_json(verification_path(directory).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def verification_path(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.verified")


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns
