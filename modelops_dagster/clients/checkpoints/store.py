"""The store's directories: which are whole, and how one becomes whole."""

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelops_dagster.clients.checkpoints.allowances import AllowList
from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.clients.checkpoints.fetching import Fetch, Progress, present_bytes, size_of
from modelops_dagster.clients.checkpoints.manifests import (
    MANIFEST_NAME,
    PARTIAL_SUFFIX,
    forget_verified,
    is_verified,
    note_verified,
    read_manifest,
    write_manifest,
)
from modelops_dagster.clients.checkpoints.reuse import can_link, known_files
from modelops_dagster.clients.checkpoints.verification import damaged_files
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.checkpoints import Checkpoint, Delivery, Manifest
from modelops_dagster.domain.errors import DiskFull, IntegrityError, UserError
from modelops_dagster.domain.findings import Space
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.model_config import ModelConfig, has_chat_template
from modelops_dagster.domain.repo_files import CONFIGS, checkpoint_files, has_code, wanted_files

DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_IS_CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})
# Within this time of a comparison of every byte, unchanged sizes and times of change are believed.
VERIFIED_FOR_S = 3600.0


def free_space(path: Path) -> int:
    """Bytes that an ordinary user may still write on the filesystem of `path`."""
    return shutil.disk_usage(path).free


class CheckpointStore:
    """`root/<org>/<name>/<commit>/`: a directory is whole exactly when its manifest is there.

    While it is being fetched it is called `<commit>.partial`; what a killed process left there is resumed by the byte.
    Its files are read-only, since revisions of one repository may share them.

    Args:
        root: the store, on a filesystem that everything which serves the checkpoints can read.
        allow_list: which commits may bring code; without one, none may.
        max_workers: files fetched and hashed at the same time.
        free_bytes: how the free space at a path is measured, in bytes.
    """

    def __init__(
        self,
        root: Path,
        allow_list: AllowList | None = None,
        *,
        max_workers: int = 8,
        free_bytes: Callable[[Path], int] = free_space,
    ) -> None:
        self.root = root.expanduser().resolve()
        self.max_workers = max_workers
        self._allow_list = allow_list
        self._free_bytes = free_bytes

    def directory(self, revision: ModelRevision) -> Path:
        """Where the checkpoint of `revision` is, or would be."""
        return self.root / revision.org / revision.name / revision.commit_hash

    def load(self, revision: ModelRevision) -> Checkpoint | None:
        """The whole checkpoint of `revision` as it was released, or None.

        Raises:
            IntegrityError: its manifest cannot be read.
        """
        return self.read(self.directory(revision))

    def read(self, directory: Path) -> Checkpoint | None:
        """The whole checkpoint in a directory of the store, released or made from another; None when it is not whole.

        Raises:
            IntegrityError: its manifest cannot be read.
        """
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
            derivation=manifest.derivation,
            max_context=config.max_context,
            architectures=config.architectures,
            has_chat_template=has_chat_template(
                [f.path for f in manifest.files], _read_json(directory / "tokenizer_config.json")
            ),
            remote_code=manifest.remote_code,
        )

    def verify(
        self, checkpoint: Checkpoint, *, verified_for_s: float = 0.0, progress: Progress | None = None
    ) -> list[str]:
        """Compare a checkpoint with its manifest. Returns one line per problem; an empty list means that all is well.

        Args:
            checkpoint: any, also one that was made from another.
            verified_for_s: within this time of the last comparison, files that were not written to are not read again.
            progress: called with (bytes read, bytes in all), from several threads.
        """
        return self.verify_directory(Path(checkpoint.directory), verified_for_s=verified_for_s, progress=progress)

    def verify_directory(
        self, directory: Path, *, verified_for_s: float = 0.0, progress: Progress | None = None
    ) -> list[str]:
        """As `verify`, of a directory of which only the place is known."""
        manifest = read_manifest(directory)
        if manifest is None:
            return [f"{directory} has no manifest, so it is not whole: fetch it again"]
        if verified_for_s and is_verified(directory, manifest, verified_for_s):
            return []
        damaged = damaged_files(directory, manifest, self.max_workers, progress)
        try:
            forget_verified(directory) if damaged else note_verified(directory, manifest)
        except OSError as error:
            if error.errno not in DISK_IS_CLOSED | DISK_IS_FULL:
                raise  # who may only read may verify too, and reads it all again the next time
        return [f"{path}: {problem}" for path, problem in damaged.items()]

    def ensure(self, release: Release, hub: HubClient, progress: Progress | None = None) -> Checkpoint:
        """Make the checkpoint of `release` be there, and return it: `deliver` for those who do not ask what it took."""
        return self.deliver(release, hub, progress).checkpoint

    def deliver(self, release: Release, hub: HubClient, progress: Progress | None = None) -> Delivery:
        """Make the checkpoint of `release` be there, every byte as the Hub lists it.

        Safe to call twice, at once, and after a kill. What is there is compared with its manifest, and only the files
        that are damaged are fetched again; files that another revision of the repository has are taken from it.

        Args:
            release: what to fetch, with the digests it has to have.
            hub: where to fetch it from.
            progress: called with (bytes done, bytes in all), from several threads.

        Raises:
            NoWeights, NoTokenizer: the repository lacks files without which it is no model.
            UnsafeCheckpoint: it asks for code that nobody allowed, or lists a path outside of it.
            DiskFull: not enough space, before or during the fetch; what is there is kept and resumed.
            IntegrityError: a file differs from the Hub's listing after it was fetched twice, or is not sound.
            HubUnavailable: the Hub stopped answering; what is there is kept and resumed.
            Conflict: another process took the fetch over while this one stood still.
        """
        begun, revision = time.monotonic(), release.revision
        code_allowed = self.allows_code(revision)
        files = checkpoint_files(release, code_allowed=code_allowed)
        if whole := self._intact(revision, files):
            return Delivery(checkpoint=whole, seconds=time.monotonic() - begun)
        directory = self.directory(revision)
        partial = directory.with_name(f"{directory.name}{PARTIAL_SUFFIX}")
        total_bytes = sum(f.size_bytes for f in files)

        def waiting() -> None:
            if progress is not None:
                # in this order, since the partial one becomes the other at the end
                there = (max(present_bytes(partial / f.path), size_of(directory / f.path)) for f in files)
                progress(sum(min(f.size_bytes, n) for f, n in zip(files, there, strict=True)), total_bytes)

        with self._disk_errors(revision):
            directory.parent.mkdir(parents=True, exist_ok=True)
            with claim(directory.with_name(f"{directory.name}.claim"), on_wait=waiting) as held:
                if whole := self._intact(revision, files):
                    return Delivery(checkpoint=whole, seconds=time.monotonic() - begun)
                repaired = self._reopen(directory, partial)
                known = known_files(directory.parent)
                self._require_space(revision, files, partial, known)
                fetch = Fetch(release, hub, partial, held, progress, known=known, code_allowed=code_allowed)
                fetched = fetch.run(files, self.max_workers)
                _remove_strangers(partial, {f.path for f in files})
                held.confirm()
                partial.rename(directory)
                source, remote_code = f"{release.hub_url}/{revision.repo_id}", has_code(f.path for f in files)
                manifest = Manifest(revision=revision, source=source, files=fetched, remote_code=remote_code)
                write_manifest(directory, manifest)
                note_verified(directory, manifest)
        found = self.load(revision)
        if found is None:
            raise IntegrityError(f"{directory} was removed while it was being written: run it again.")
        return Delivery(
            checkpoint=found,
            fetched_bytes=fetch.fetched_bytes,
            reused_bytes=fetch.reused_bytes,
            repaired=repaired,
            seconds=time.monotonic() - begun,
        )

    def allows_code(self, revision: ModelRevision) -> bool:
        """Whether an operator allowed this commit to bring code.

        Raises:
            IntegrityError: the list of what is allowed cannot be read.
        """
        return self._allow_list is not None and self._allow_list.allows_code(revision)

    def space(self, release: Release) -> Space:
        """How many bytes of the release are not here yet, and how many there is room for."""
        directory = self.directory(release.revision)
        files = wanted_files(release.files, with_code=self.allows_code(release.revision))
        there = next((d for d in (self.root, *self.root.parents) if d.exists()), self.root)
        partial = directory.with_name(f"{directory.name}{PARTIAL_SUFFIX}")
        needed = 0 if read_manifest(directory) else _lacking(files, partial, known_files(directory.parent))
        return Space(needed_bytes=needed, free_bytes=self._free_bytes(there), root=str(self.root))

    def _intact(self, revision: ModelRevision, files: Sequence[RepoFile]) -> Checkpoint | None:
        """The checkpoint when it consists of `files` and every byte is what its manifest says."""
        directory = self.directory(revision)
        manifest = read_manifest(directory)
        if manifest is None or {f.path for f in manifest.files} != {f.path for f in files}:
            return None
        if any(size_of(directory / f.path) != f.size_bytes for f in manifest.files):
            return None
        checkpoint = self.load(revision)
        if checkpoint is None or self.verify(checkpoint, verified_for_s=VERIFIED_FOR_S):
            return None
        return checkpoint

    def _reopen(self, directory: Path, partial: Path) -> tuple[str, ...]:
        """A directory that is not whole becomes the partial one, so that its good files are kept.

        Returns:
            The files that a manifest promised and that are gone or damaged.
        """
        damaged: tuple[str, ...] = ()
        if directory.exists():
            manifest = read_manifest(directory)
            if manifest is not None:
                damaged = tuple(damaged_files(directory, manifest, self.max_workers))
            (directory / MANIFEST_NAME).unlink(missing_ok=True)
            if partial.exists():
                shutil.rmtree(partial)
            directory.rename(partial)
        partial.mkdir(exist_ok=True)
        return damaged

    def _require_space(
        self, revision: ModelRevision, files: Sequence[RepoFile], partial: Path, known: Mapping[str, Path]
    ) -> None:
        """There is room for what is neither there already nor another name of a file that is."""
        needed = _lacking(files, partial, known)
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


def _lacking(files: Sequence[RepoFile], partial: Path, known: Mapping[str, Path]) -> int:
    """Bytes of `files` that are neither in the partial directory nor another name of a file that is there."""
    folder = partial if partial.exists() else partial.parent
    linked = {f.path for f in files if (s := known.get(f.sha256 or "")) is not None and can_link(s, folder)}
    return sum(f.size_bytes - min(f.size_bytes, present_bytes(partial / f.path)) for f in files if f.path not in linked)


def _remove_strangers(partial: Path, expected: set[str]) -> None:
    """Leave nothing in the directory that the release does not have."""
    for path in sorted(partial.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(partial).as_posix() not in expected:
            path.unlink()


def _read_json(path: Path) -> object:
    """A parsed file, None when it is absent or not JSON; what uses it treats both as not stated."""
    try:
        content: object = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content
