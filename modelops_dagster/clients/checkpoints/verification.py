"""Comparing a checkpoint with its manifest, file by file, and looking at the numbers in its tensors."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modelops_dagster.clients.checkpoints.digests import RunningDigest, read_header_and_start, read_safetensors_header
from modelops_dagster.clients.checkpoints.fetching import Progress
from modelops_dagster.clients.checkpoints.manifests import MANIFEST_NAME
from modelops_dagster.domain.checkpoints import Manifest, ManifestFile
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.repo_files import is_weight
from modelops_dagster.domain.safetensors import FLOATS, BadValues, count_bad_values

PIECE_BYTES = 8 << 20
# what network filesystems call a file that was removed while somebody had it open
LEFTOVER_PREFIX = ".nfs"


class _Tally:
    """Bytes that several threads have read, told as one figure."""

    def __init__(self, total_bytes: int, progress: Progress | None) -> None:
        self._lock, self._done_bytes = threading.Lock(), 0
        self._total_bytes, self._progress = total_bytes, progress

    def add(self, read_bytes: int) -> None:
        with self._lock:
            self._done_bytes += read_bytes
            done_bytes = self._done_bytes
        if self._progress is not None:
            self._progress(done_bytes, self._total_bytes)


def damaged_files(
    directory: Path, manifest: Manifest, max_workers: int, progress: Progress | None = None
) -> dict[str, str]:
    """path -> what is wrong with it, for every file that is not what the manifest says. Reads every byte.

    Args:
        directory: of the checkpoint.
        manifest: what it should hold.
        max_workers: files read at the same time.
        progress: called with (bytes read, bytes in all), from several threads.
    """
    tally = _Tally(manifest.size_bytes, progress)
    with ThreadPoolExecutor(max_workers, thread_name_prefix="verify") as pool:
        problems = list(pool.map(lambda f: _problem(directory / f.path, f, tally), manifest.files))
    found = {f.path: p for f, p in zip(manifest.files, problems, strict=True) if p}
    return found | dict.fromkeys(_strangers(directory, {f.path for f in manifest.files}), "not in the manifest")


def bad_values(
    directory: Path, manifest: Manifest, max_workers: int, progress: Progress | None = None
) -> dict[str, BadValues]:
    """`file: tensor` -> how many of its numbers are not finite, for every tensor that has some. Memory: a few pieces.

    Raises:
        IntegrityError: a file is not a sound safetensors file.
    """
    weights = [f for f in manifest.files if is_weight(f.path)]
    tally = _Tally(sum(f.size_bytes for f in weights), progress)
    found: dict[str, BadValues] = {}
    with ThreadPoolExecutor(max_workers, thread_name_prefix="values") as pool:
        for part in pool.map(lambda f: _bad_values_of(directory / f.path, f.path, tally), weights):
            found |= part
    return found


def _bad_values_of(path: Path, name: str, tally: _Tally) -> dict[str, BadValues]:
    header, start_bytes = read_header_and_start(path)
    tally.add(start_bytes)
    found: dict[str, BadValues] = {}
    with path.open("rb") as source:
        for tensor, entry in header.items():
            begin, end = entry["data_offsets"]
            source.seek(start_bytes + begin)
            bad = BadValues()
            while entry["dtype"] in FLOATS and begin < end:
                piece = source.read(min(PIECE_BYTES, end - begin))
                if not piece:
                    break  # somebody cut it while we read; the digest tells
                bad += count_bad_values(entry["dtype"], piece)
                begin += len(piece)
                tally.add(len(piece))
            tally.add(end - begin)
            if bad.nan or bad.infinite:
                found[f"{name}: {tensor}"] = bad
    return found


def _strangers(directory: Path, expected: set[str]) -> list[str]:
    """What is in the directory and belongs to nobody: an engine might load it."""
    known = {MANIFEST_NAME, f"{MANIFEST_NAME}.tmp"}
    paths = (p for p in sorted(directory.rglob("*")) if p.is_symlink() or not p.is_dir())
    names = (p.relative_to(directory).as_posix() for p in paths if not p.name.startswith(LEFTOVER_PREFIX))
    return [name for name in names if name not in expected and name not in known]


def _problem(path: Path, file: ManifestFile, tally: _Tally) -> str | None:
    if path.is_symlink() or not path.is_file():
        return "missing"
    if path.stat().st_size != file.size_bytes:
        return f"expected {file.size_bytes} bytes, got {path.stat().st_size}"
    sha256 = RunningDigest(file.size_bytes, with_git=False).read(path, tally.add).sha256
    if sha256 != file.sha256:
        return f"expected sha256 {file.sha256}, got {sha256}"
    if is_weight(file.path):
        try:
            read_safetensors_header(path)
        except ModelOpsError as error:
            return error.sentence
    return None
