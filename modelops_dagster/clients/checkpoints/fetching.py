"""Filling a partial directory with the files of a release, several at a time, each compared with the Hub's listing."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from modelops_dagster.clients.checkpoints.claims import Claim
from modelops_dagster.clients.checkpoints.digests import RunningDigest, read_safetensors_header
from modelops_dagster.clients.checkpoints.manifests import READ_ONLY
from modelops_dagster.clients.checkpoints.reuse import place
from modelops_dagster.clients.checkpoints.soundness import require_indexed, require_no_code, require_placed, weight_maps
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.checkpoints import ManifestFile
from modelops_dagster.domain.errors import IntegrityError, UnsafeCheckpoint
from modelops_dagster.domain.hub import Release, RepoFile
from modelops_dagster.domain.repo_files import is_weight, mismatch

# A file is called this until it has all its bytes; a later process goes on where it ends.
PART_SUFFIX = ".part"
REPORT_EVERY_S = 0.1
# An engine that knows a model by itself reads these by classes of its own. One that does not, for a processor, fails to
# start: no code is there for it to run.
JUDGED = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
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
        known: sha256 -> a file on this disk that had it, tried before the Hub is asked.
        code_allowed: an operator allowed this commit to bring code.
    """

    def __init__(
        self,
        release: Release,
        hub: HubClient,
        partial: Path,
        held: Claim,
        progress: Progress | None,
        *,
        known: Mapping[str, Path],
        code_allowed: bool,
    ) -> None:
        self.release, self.hub, self.partial, self.held, self.progress = release, hub, partial, held, progress
        self.known, self.code_allowed = known, code_allowed
        self.fetched_bytes = self.reused_bytes = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._positions: dict[str, int] = {}
        self._total_bytes = 0
        self._reported_at = 0.0

    def run(self, files: Sequence[RepoFile], max_workers: int) -> tuple[ManifestFile, ...]:
        """Fetch and verify `files`: the small ones first, so that an incomplete repository costs no weights."""
        revision, paths = self.release.revision, {f.path for f in files}
        self._total_bytes = sum(f.size_bytes for f in files)
        self._positions = {f.path: min(f.size_bytes, present_bytes(self.partial / f.path)) for f in files}
        fetched = self._all([f for f in files if not is_weight(f.path)], max_workers)
        if not self.code_allowed:
            judged = JUDGED if self.release.runs_without_code else ()
            require_no_code(revision, self.partial, paths, judged=judged)
        maps = weight_maps(revision, self.partial, paths)
        require_indexed(revision, maps, paths)
        fetched += self._all([f for f in files if is_weight(f.path)], max_workers)
        require_placed(revision, self.partial, maps, paths)
        if self.progress is not None:
            self.progress(self._total_bytes, self._total_bytes)
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
        """Get one file from the nearest place that has it as the Hub lists it; what differs is deleted."""
        target, problem = self._target(file), None
        for source in (self._kept, self._reused, self._fetched, self._fetched):
            digest = source(file, target)
            if digest is None:
                continue
            problem = mismatch(file, digest.size_bytes, digest.sha256, digest.git_sha1)
            if problem is None:
                if is_weight(file.path):
                    read_safetensors_header(target)
                target.chmod(READ_ONLY)  # another revision may share it
                if source == self._reused:
                    self._count(reused_bytes=digest.size_bytes)
                self._report(file, digest.size_bytes, at_once=True)
                return ManifestFile(path=file.path, size_bytes=digest.size_bytes, sha256=digest.sha256)
            target.unlink()
            self._report(file, 0, at_once=True)
        raise IntegrityError(
            f"{file.path} of {self.release.revision} is not what {self.release.hub_url} lists, twice ({problem}): "
            "the bad copy is deleted; try again later, or ask its publisher to upload it again."
        )

    def _digest(self, file: RepoFile) -> RunningDigest:
        return RunningDigest(file.size_bytes, with_git=file.sha256 is None)

    def _kept(self, file: RepoFile, target: Path) -> RunningDigest | None:
        """What an earlier attempt left here."""
        return self._digest(file).read(target, self._breathe) if target.is_file() else None

    def _reused(self, file: RepoFile, target: Path) -> RunningDigest | None:
        """What another revision had, and has unless it was damaged since."""
        source = self.known.get(file.sha256 or "")
        if source is None:
            return None
        try:
            place(source, target)
        except FileNotFoundError:
            return None  # that revision is being repaired or deleted at this moment
        return self._digest(file).read(target, self._breathe)

    def _fetched(self, file: RepoFile, target: Path) -> RunningDigest:
        """What the Hub sends, hashed while its bytes are at hand."""
        part = target.with_name(target.name + PART_SUFFIX)
        if part.is_symlink() or size_of(part) > file.size_bytes:
            part.unlink()
        digest = self._digest(file)
        if part.exists():
            digest.read(part, self._breathe)

        def on_bytes(position: int, piece: bytes) -> None:
            nonlocal digest
            if position - len(piece) < digest.size_bytes:  # the Hub began again
                digest = self._digest(file)
            if position - len(piece) == digest.size_bytes:
                digest.update(piece)
            self._count(fetched_bytes=len(piece))
            self._report(file, position)

        self.hub.fetch_file(self.release.revision, file, part, on_bytes)
        part.replace(target)
        return digest.read(target, self._breathe)  # what did not pass through here: a protocol of its own brought it

    def _count(self, *, fetched_bytes: int = 0, reused_bytes: int = 0) -> None:
        with self._lock:
            self.fetched_bytes += fetched_bytes
            self.reused_bytes += reused_bytes

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

    def _report(self, file: RepoFile, position_bytes: int, *, at_once: bool = False) -> None:
        """Note how far one file has come, and tell now and then how far all of them have."""
        self._breathe(0)
        with self._lock:
            self._positions[file.path] = position_bytes
            now = time.monotonic()
            if self.progress is None or not (at_once or now - self._reported_at >= REPORT_EVERY_S):
                return
            self._reported_at = now
            done_bytes = sum(self._positions.values())
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
