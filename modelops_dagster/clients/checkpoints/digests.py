"""Digests of files, and the headers of safetensors files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.repo_files import git_blob_header
from modelops_dagster.domain.safetensors import MAX_HEADER_BYTES, Header, parse_header

CHUNK_BYTES = 1 << 20


class RunningDigest:
    """Digests of a file while it is being written, so that nobody has to read it again.

    Args:
        size_bytes: of the whole file; git hashes it first.
        with_git: whether the git blob id is wanted too. It costs as much as the sha256 does.
    """

    def __init__(self, size_bytes: int, *, with_git: bool) -> None:
        self.size_bytes = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(git_blob_header(size_bytes), usedforsecurity=False) if with_git else None

    def update(self, piece: bytes) -> None:
        self._sha256.update(piece)
        if self._git is not None:
            self._git.update(piece)
        self.size_bytes += len(piece)

    def read(self, path: Path, on_bytes: Callable[[int], None] | None = None) -> "RunningDigest":
        """Go on with what `path` holds beyond the bytes that were seen; returns itself."""
        with path.open("rb", buffering=0) as source:
            source.seek(self.size_bytes)
            while piece := source.read(CHUNK_BYTES):
                self.update(piece)
                if on_bytes is not None:
                    on_bytes(len(piece))
        return self

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def git_sha1(self) -> str:
        """Empty when it was not asked for."""
        return self._git.hexdigest() if self._git is not None else ""


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> tuple[int, str, str]:
    """Read a file once.

    Args:
        path: the file.
        on_bytes: called with the size of every piece read; may raise to stop.

    Returns:
        Size in bytes, sha256 and git blob id, both as lowercase hex.
    """
    digest = RunningDigest(path.stat().st_size, with_git=True).read(path, on_bytes)
    return digest.size_bytes, digest.sha256, digest.git_sha1


def read_safetensors_header(path: Path) -> Header:
    """The JSON header of a safetensors file, checked against the file: tensor name -> dtype, shape, data_offsets.

    Raises:
        IntegrityError: the header is too long, is not JSON, or describes bytes that the file does not have, or twice.
    """
    return read_header_and_start(path)[0]


def read_header_and_start(path: Path) -> tuple[Header, int]:
    """As `read_safetensors_header`, and the byte at which the tensors begin."""
    size_bytes = path.stat().st_size

    def broken(what: str) -> IntegrityError:
        return IntegrityError(
            f"{path.name} is not a sound safetensors file ({what}): fetch it again, and if that does not help, "
            "the repository has to publish it again."
        )

    with path.open("rb") as source:
        header_bytes = int.from_bytes(source.read(8), "little")
        if size_bytes < 8 or header_bytes > MAX_HEADER_BYTES:
            raise broken(f"header of {header_bytes} bytes in a file of {size_bytes}")
        if 8 + header_bytes > size_bytes:
            raise broken(f"truncated at {size_bytes} bytes, inside a header of {header_bytes}")
        try:
            header = parse_header(source.read(header_bytes), size_bytes - 8 - header_bytes)
        except ValueError as error:
            raise broken(str(error)) from error
    return header, 8 + header_bytes
