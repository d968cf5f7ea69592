"""Digests of files, and whether a safetensors file is what its own header says."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.repo_files import git_blob_header

CHUNK_BYTES = 1 << 20
# The format's own limit; a longer header is a decompression bomb or not a header.
MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> tuple[int, str, str]:
    """Read a file once.

    Args:
        path: the file.
        on_bytes: called with the size of every piece read; may raise to stop.

    Returns:
        Size in bytes, sha256 and git blob id, both as lowercase hex.
    """
    size_bytes = path.stat().st_size
    sha256 = hashlib.sha256()
    git = hashlib.sha1(git_blob_header(size_bytes), usedforsecurity=False)
    read = 0
    with path.open("rb") as source:
        while piece := source.read(CHUNK_BYTES):
            sha256.update(piece)
            git.update(piece)
            read += len(piece)
            if on_bytes is not None:
                on_bytes(len(piece))
    return read, sha256.hexdigest(), git.hexdigest()


def read_safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file: tensor name -> dtype, shape, data_offsets.

    Raises:
        IntegrityError: the header is too long, is not JSON, or describes bytes that the file does not have.
    """
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
            header = json.loads(source.read(header_bytes))
        except (ValueError, RecursionError) as error:
            raise broken("its header is not JSON") from error
    if not isinstance(header, dict):
        raise broken("its header is not a JSON object")
    header.pop("__metadata__", None)
    data_bytes = size_bytes - 8 - header_bytes
    end_bytes = 0
    for name, tensor in header.items():
        if problem := _tensor_problem(tensor, data_bytes):
            raise broken(f"tensor {name[:80]!r} {problem}")
        end_bytes = max(end_bytes, tensor["data_offsets"][1])
    if end_bytes != data_bytes:
        raise broken(f"its tensors end at byte {end_bytes} of {data_bytes}")
    return header


def _tensor_problem(tensor: object, data_bytes: int) -> str | None:
    """What is wrong with one entry of a header, or None."""
    if not isinstance(tensor, dict):
        return "is not described by an object"
    shape, offsets = tensor.get("shape"), tensor.get("data_offsets")
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        return "has no valid shape and data_offsets"
    start, end = offsets
    if not start <= end <= data_bytes:
        return f"lies at bytes {start} to {end} of {data_bytes}, so the file is truncated"
    item_bytes = ITEM_BYTES.get(str(tensor.get("dtype")))  # types of less than a byte are not listed
    if item_bytes is not None and end - start != item_bytes * math.prod(shape):
        return f"has {end - start} bytes, which does not fit its shape"
    return None


def _is_naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)
