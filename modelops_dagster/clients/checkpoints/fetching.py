"""Filling a partial directory with the files of a release, several at a time, each compared with the Hub's listing."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath

from modelops_dagster.clients.checkpoints.claims import Claim
from modelops_dagster.clients.checkpoints.digests import hash_file, read_safetensors_header
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.checkpoints import ManifestFile
from modelops_dagster.domain.errors import IntegrityError, UnsafeCheckpoint
from modelops_dagster.domain.hub import Release, RepoFile
from modelops_dagster.domain.repo_files import is_weight, mismatch, missing_from_index, require_complete

INDEX_SUFFIX = ".safetensors.index.json"
# A file is called this until it has all its bytes; a later process goes on where it ends.
PART_SUFFIX = ".part"
Progress = Callable[[int, int], None]


class Stopped(Exception):
    """Another file of the same fetch failed. Never leaves this module."""


class Fetch:
    """One attempt to fill a partial directory.

    Args:
        release: what to fetch.
        hub: where from.
        partial: the directory to fill; made when it is absent.
        held: the claim on it.
        progress: called with (bytes done, bytes in all), from several threads.
    """

    def __init__(self, release: Release, hub: HubClient, partial: Path, held: Claim, progress: Progress | None) -> None:
        self.release, self.hub, self.partial, self.held, self.progress = release, hub, partial, held, progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._positions: dict[str, int] = {}
        self._total_bytes = 0

    def run(self, files: Sequence[RepoFile], max_workers: int) -> tuple[ManifestFile, ...]:
        """Fetch and verify `files`: the small ones first, so that an incomplete repository costs no weights."""
        self._total_bytes = sum(f.size_bytes for f in files)
        self._positions = {f.path: min(f.size_bytes, present_bytes(self.partial / f.path)) for f in files}
        fetched = self._all([f for f in files if not is_weight(f.path)], max_workers)
        self._require_indexed({f.path for f in files})
        fetched += self._all([f for f in files if is_weight(f.path)], max_workers)
        return tuple(sorted(fetched, key=lambda f: f.path))

    def _all(self, files: Sequence[RepoFile], max_workers: int) -> list[ManifestFile]:
        """Run the files in parallel; the first failure stops the others at their next piece."""
        with ThreadPoolExecutor(max_workers, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._one, f) for f in files]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                if not all(f.done() and f.exception() is None for f in futures):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
            if errors:
                raise next((e for e in errors if not isinstance(e, Stopped)), errors[0])
            return [f.result() for f in futures]

    def _one(self, file: RepoFile) -> ManifestFile:
        """Fetch one file unless it is there, and compare it with the listing; a bad one is fetched once more."""
        target = self._target(file)
        problem = None
        for _ in range(2):
            if not target.is_file():
                self._download(file, target)
            size_bytes, sha256, git_sha1 = hash_file(target, self._breathe)
            problem = mismatch(file, size_bytes, sha256, git_sha1)
            if problem is None:
                if is_weight(file.path):
                    read_safetensors_header(target)
                self._report(file, size_bytes)
                return ManifestFile(path=file.path, size_bytes=size_bytes, sha256=sha256)
            target.unlink()
            self._report(file, 0)
        raise IntegrityError(
            f"{file.path} of {self.release.revision} is not what {self.release.hub_url} lists, twice ({problem}): "
            "the bad copy is deleted; try again later, or ask its publisher to upload it again."
        )

    def _download(self, file: RepoFile, target: Path) -> None:
        part = target.with_name(target.name + PART_SUFFIX)
        if part.is_symlink() or size_of(part) > file.size_bytes:
            part.unlink()
        self.hub.fetch_file(self.release.revision, file, part, lambda position: self._report(file, position))
        with part.open("rb") as written:
            os.fsync(written.fileno())  # the manifest must not reach the disk before the bytes it vouches for
        part.replace(target)

    def _target(self, file: RepoFile) -> Path:
        target = self.partial / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.resolve().is_relative_to(self.partial.resolve()):
            raise UnsafeCheckpoint(
                f"{target.parent} leads outside {self.partial} through a symbolic link: remove it and run this again."
            )
        if target.is_symlink():
            target.unlink()
        return target

    def _require_indexed(self, paths: set[str]) -> None:
        """Every file that a weight index names is part of the release."""
        missing: set[str] = set()
        for path in sorted(p for p in paths if p.endswith(INDEX_SUFFIX)):
            try:
                index = json.loads((self.partial / path).read_text())
            except ValueError as error:
                raise IntegrityError(
                    f"{path} of {self.release.revision} is not JSON: ask its publisher to upload it again."
                ) from error
            missing.update(missing_from_index(index, str(PurePosixPath(path).parent), paths))
        require_complete(self.release.revision, sorted(missing))

    def _report(self, file: RepoFile, position_bytes: int) -> None:
        """Note how far one file has come, and tell how far all of them have."""
        self._breathe(0)
        with self._lock:
            self._positions[file.path] = position_bytes
            done_bytes = sum(self._positions.values())
        if self.progress is not None:
            self.progress(done_bytes, self._total_bytes)

    def _breathe(self, _: int) -> None:
        """Where a file's thread notices that it should stop."""
        if self._stop.is_set():
            raise Stopped
        if self.held.lost.is_set():
            self.held.confirm()


def size_of(path: Path) -> int:
    """Size in bytes of a regular file, -1 when there is none."""
    return path.stat().st_size if path.is_file() else -1


def present_bytes(target: Path) -> int:
    """How much of a file is already there, whole or in part."""
    return max(size_of(target), size_of(target.with_name(target.name + PART_SUFFIX)), 0)
