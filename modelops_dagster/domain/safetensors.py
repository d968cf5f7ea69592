"""What the header of a safetensors file may say, judged without the tensors.

The rules are those of the format's own loader: every byte of the data belongs to exactly one tensor, and a tensor has
exactly the bytes that its type and shape ask for.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import numpy as np

# The format's own limit; a longer header is a decompression bomb or not a header.
MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"
ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
# type -> bits of an item, mask of its exponent, mask of its mantissa; an exponent of all ones is infinity or NaN
FLOATS = {
    "F64": (64, 0x7FF0_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF),
    "F32": (32, 0x7F80_0000, 0x007F_FFFF),
    "F16": (16, 0x7C00, 0x03FF),
    "BF16": (16, 0x7F80, 0x007F),
    "F8_E5M2": (8, 0x7C, 0x03),
    "F8_E4M3": (8, 0x78, 0x07),
}
Header = dict[str, dict[str, Any]]


def parse_header(content: bytes, data_bytes: int) -> Header:
    """The header of a file: tensor name -> dtype, shape, data_offsets.

    Args:
        content: the header's JSON.
        data_bytes: how many bytes of tensors follow it.

    Raises:
        ValueError: what is wrong with it, in words that fit into parentheses.
    """
    try:
        header = json.loads(content, object_pairs_hook=_without_duplicates)
    except _Duplicate as error:
        raise ValueError(f"its header has {error.args[0][:80]!r} twice") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is not JSON") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"its {METADATA} is not a table of texts")
    for name, tensor in header.items():
        if problem := _tensor_problem(tensor, data_bytes):
            raise ValueError(f"tensor {name[:80]!r} {problem}")
    _require_contiguous(header, data_bytes)
    return header


def misplaced_tensors(weight_map: Mapping[str, str], headers: Mapping[str, Header]) -> tuple[str, ...]:
    """Tensors that an index says are in a file which does not have them, as `tensor (file)`, sorted.

    Args:
        weight_map: tensor -> file name.
        headers: file name -> header; files that are not listed are not judged.
    """
    return tuple(sorted(f"{t} ({f})" for t, f in weight_map.items() if f in headers and t not in headers[f]))


class _Duplicate(Exception):
    """A JSON object names a key twice; which of the two a reader sees differs from reader to reader."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(key)
        found[key] = value
    return found


def _require_contiguous(header: Header, data_bytes: int) -> None:
    """Tensors follow each other without a gap and without sharing a byte, from the first byte to the last."""
    end_bytes = 0
    for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = tensor["data_offsets"]
        if start < end_bytes:
            raise ValueError(f"tensor {name[:80]!r} begins at byte {start}, inside the one before it")
        if start > end_bytes:
            raise ValueError(f"nobody owns bytes {end_bytes} to {start}, before tensor {name[:80]!r}")
        end_bytes = end
    if end_bytes != data_bytes:
        raise ValueError(f"its tensors end at byte {end_bytes} of {data_bytes}")


def _tensor_problem(tensor: object, data_bytes: int) -> str | None:
    """What is wrong with one entry of a header, or None."""
    if not isinstance(tensor, dict):
        return "is not described by an object"
    shape, offsets, dtype = tensor.get("shape"), tensor.get("data_offsets"), tensor.get("dtype")
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        return "has no valid shape and data_offsets"
    start, end = offsets
    if not start <= end <= data_bytes:
        return f"lies at bytes {start} to {end} of {data_bytes}, so the file is truncated"
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        return f"has the unknown type {str(dtype)[:40]!r}"
    if 8 * (end - start) != ITEM_BITS[dtype] * math.prod(shape):
        return f"has {end - start} bytes, which does not fit its shape"
    return None


def _is_naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


class BadValues(NamedTuple):
    """How many numbers are no numbers, or infinite."""

    nan: int = 0
    infinite: int = 0

    def __add__(self, other: object) -> "BadValues":
        if not isinstance(other, BadValues):
            return NotImplemented
        return BadValues(self.nan + other.nan, self.infinite + other.infinite)


def count_bad_values(dtype: str, content: bytes) -> BadValues:
    """How many of the numbers in `content` are not finite.

    Args:
        dtype: one of `FLOATS`.
        content: a whole number of items, little-endian.
    """
    bits, exponent, mantissa = FLOATS[dtype]
    items = np.frombuffer(content, dtype=f"<u{bits // 8}") & np.asarray(exponent | mantissa, dtype=f"<u{bits // 8}")
    if dtype == "F8_E4M3":  # has no infinity: one pattern is NaN, and the exponent of all ones is a number otherwise
        return BadValues(nan=int(np.count_nonzero(items == (exponent | mantissa))))
    special = items[items >= exponent]
    infinite = int(np.count_nonzero(special == exponent))
    return BadValues(nan=special.size - infinite, infinite=infinite)
