"""The store's directories: which are whole, and how one becomes whole."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.clients.checkpoints.digests import hash_file, read_safetensors_header
from modelops_dagster.clients.checkpoints.fetching import Fetch, Progress, present_bytes, size_of
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.checkpoints import Checkpoint, Manifest, ManifestFile
from modelops_dagster.domain.errors import DiskFull, IntegrityError, ModelOpsError, UserError
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.model_config import ModelConfig, has_chat_template
from modelops_dagster.domain.repo_files import CONFIGS, checkpoint_files, is_weight

MANIFEST_NAME = ".modelops-manifest.json"
DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_IS_CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


def free_space(path: Path) -> int:
    """Bytes that an ordinary user may still write on the filesystem of `path`."""
    return shutil.disk_usage(path).free


class CheckpointStore:
    """`root/<org>/<name>/<commit>/`: a directory is whole exactly when its manifest is there.

    While it is being fetched it is called `<commit>.partial`; what a killed process left there is resumed by the byte.

    Args:
        root: the store, on a filesystem that everything which serves the checkpoints can read.
        max_workers: files fetched and hashed at the same time.
        free_bytes: how the free space at a path is measured, in bytes.
    """

    def __init__(self, root: Path, *, max_workers: int = 8, free_bytes: Callable[[Path], int] = free_space) -> None:
        self.root = root.expanduser().resolve()
        self.max_workers = max_workers
        self._free_bytes = free_bytes

    def directory(self, revision: ModelRevision) -> Path:
        """Where the checkpoint of `revision` is, or would be."""
        return self.root / revision.org / revision.name / revision.commit_hash

    def load(self, revision: ModelRevision) -> Checkpoint | None:
        """The whole checkpoint of `revision`, or None.

        Raises:
            IntegrityError: its manifest cannot be read.
        """
        directory = self.directory(revision)
        manifest = read_manifest(directory)
        if manifest is None:
            return None
        config = ModelConfig.from_json(_read_json(directory / CONFIGS[0]))
        return Checkpoint(
            revision=manifest.revision,
            scheme=manifest.scheme,
            directory=str(directory),
            digest=manifest.digest,
            size_bytes=manifest.size_bytes,
            max_context=config.max_context,
            architectures=config.architectures,
            has_chat_template=has_chat_template(
                [f.path for f in manifest.files], _read_json(directory / "tokenizer_config.json")
            ),
        )

    def verify(self, checkpoint: Checkpoint) -> list[str]:
        """Read every byte again. Returns one line per problem; an empty list means that all is well."""
        directory = Path(checkpoint.directory)
        manifest = read_manifest(directory)
        if manifest is None:
            return [f"{directory} has no manifest, so it is not whole: fetch it again"]
        with ThreadPoolExecutor(self.max_workers) as pool:
            problems = pool.map(lambda f: _problem(directory / f.path, f), manifest.files)
            return [f"{f.path}: {p}" for f, p in zip(manifest.files, problems, strict=True) if p]

    def ensure(self, release: Release, hub: HubClient, progress: Progress | None = None) -> Checkpoint:
        """Make the checkpoint of `release` be there, and return it. Safe to call twice, at once, and after a kill.

        Args:
            release: what to fetch, with the digests it has to have.
            hub: where to fetch it from.
            progress: called with (bytes done, bytes in all), from several threads.

        Raises:
            NoWeights: the repository has no safetensors, or not all of them, or no configuration.
            UnsafeCheckpoint: it asks for code from the repository, or lists a path outside of it.
            DiskFull: not enough space, before or during the fetch; what is there is kept and resumed.
            IntegrityError: a file differs from the Hub's listing after it was fetched twice.
            HubUnavailable: the Hub stopped answering; what is there is kept and resumed.
            Conflict: another process took the fetch over while this one stood still.
        """
        files = checkpoint_files(release)
        if whole := self._intact(release.revision):
            return whole
        directory = self.directory(release.revision)
        partial = directory.with_name(f"{directory.name}.partial")
        total_bytes = sum(f.size_bytes for f in files)

        def waiting() -> None:
            if progress is not None:
                progress(sum(min(f.size_bytes, present_bytes(partial / f.path)) for f in files), total_bytes)

        with self._disk_errors(release.revision):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with claim(directory.with_name(f"{directory.name}.claim"), on_wait=waiting) as held:
                if whole := self._intact(release.revision):
                    return whole
                _reopen(directory, partial)
                self._require_space(release.revision, files, partial)
                fetched = Fetch(release, hub, partial, held, progress).run(files, self.max_workers)
                _remove_strangers(partial, {f.path for f in files})
                held.confirm()
                partial.rename(directory)
                source = f"{release.hub_url}/{release.revision.repo_id}"
                _write_manifest(directory, Manifest(revision=release.revision, source=source, files=fetched))
        found = self.load(release.revision)
        if found is None:
            raise IntegrityError(f"{directory} was removed while it was being written: run it again.")
        return found

    def _intact(self, revision: ModelRevision) -> Checkpoint | None:
        """The checkpoint when every file of its manifest still has its size; the full check is `verify`."""
        directory = self.directory(revision)
        manifest = read_manifest(directory)
        if manifest is None or any(size_of(directory / f.path) != f.size_bytes for f in manifest.files):
            return None
        return self.load(revision)

    def _require_space(self, revision: ModelRevision, files: Sequence[RepoFile], partial: Path) -> None:
        needed = sum(f.size_bytes - min(f.size_bytes, present_bytes(partial / f.path)) for f in files)
        free = self._free_bytes(self.root)
        if needed > free:
            raise DiskFull(
                f"{revision} needs {needed} more bytes in {self.root}, which has {free} free: make room, or set "
                "MODELOPS_HOME to a folder on a larger disk, and run it again."
            )

    @contextmanager
    def _disk_errors(self, revision: ModelRevision) -> Iterator[None]:
        """Turn what the filesystem refuses into one sentence."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_IS_FULL:
                free = self._free_bytes(self.root)
                raise DiskFull(
                    f"The disk filled up while {revision} was fetched into {self.root} ({free} bytes free): make room "
                    "and run it again, it goes on where it stopped."
                ) from error
            if error.errno in DISK_IS_CLOSED:
                raise UserError(
                    f"{error.filename or self.root} cannot be written ({error.strerror}): give this user the right to "
                    "write there, or set MODELOPS_HOME to another folder."
                ) from error
            raise


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


def _write_manifest(directory: Path, manifest: Manifest) -> None:
    staged = directory / f"{MANIFEST_NAME}.tmp"
    with staged.open("w") as out:
        out.write(manifest.model_dump_json(indent=1))
        out.flush()
        os.fsync(out.fileno())
    staged.replace(directory / MANIFEST_NAME)


def _reopen(directory: Path, partial: Path) -> None:
    """A directory that is not whole becomes the partial one, so that its good files are kept."""
    if directory.exists():
        (directory / MANIFEST_NAME).unlink(missing_ok=True)
        if partial.exists():
            shutil.rmtree(partial)
        directory.rename(partial)
    partial.mkdir(exist_ok=True)


def _remove_strangers(partial: Path, expected: set[str]) -> None:
    """Leave nothing in the directory that the release does not have."""
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(partial).as_posix() not in expected:
            path.unlink()


def _problem(path: Path, file: ManifestFile) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "missing"
    if path.stat().st_size != file.size_bytes:
        return f"expected {file.size_bytes} bytes, got {path.stat().st_size}"
    _, sha256, _ = hash_file(path)
    if sha256 != file.sha256:
        return f"expected sha256 {file.sha256}, got {sha256}"
    if is_weight(file.path):
        try:
            read_safetensors_header(path)
        except ModelOpsError as error:
            return error.sentence
    return None


def _read_json(path: Path) -> object:
    """A parsed file, None when it is absent or not JSON; what uses it treats both as not stated."""
    try:
        content: object = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content
