"""Headers that an attacker or a careless publisher could write, and numbers that are none."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.safetensors import (
    FLOATS,
    ITEM_BITS,
    BadValues,
    count_bad_values,
    misplaced_tensors,
    parse_header,
)


def header(**tensors: tuple[str, list[int], list[int]]) -> bytes:
    return json.dumps({n: {"dtype": d, "shape": s, "data_offsets": o} for n, (d, s, o) in tensors.items()}).encode()


def test_a_sound_header_is_returned_without_its_metadata():
    content = header(b=("F32", [1], [2, 6]), a=("BF16", [1], [0, 2]), empty=("F32", [0, 7], [6, 6]))
    with_metadata = content[:-1] + b', "__metadata__": {"format": "pt"}}   '
    assert set(parse_header(with_metadata, 6)) == {"a", "b", "empty"}
    packed = header(a=("F4", [2, 3], [0, 3]), b=("F6_E2M3", [4], [3, 6]), c=("F32", [], [6, 10]))
    assert len(parse_header(packed, 10)) == 3


@pytest.mark.parametrize(
    ("content", "data_bytes", "words"),
    [
        (header(a=("F32", [1], [0, 4]), b=("F32", [1], [2, 6])), 6, "inside the one before it"),
        (header(a=("F32", [1], [0, 4]), b=("F32", [1], [0, 4])), 4, "inside the one before it"),
        (header(a=("F32", [1], [0, 4]), b=("F32", [1], [8, 12])), 12, "nobody owns bytes 4 to 8"),
        (header(a=("F32", [1], [4, 8])), 8, "nobody owns bytes 0 to 4"),
        (header(a=("F32", [1], [0, 4])), 400, "end at byte 4 of 400"),
        (header(a=("F32", [1 << 62], [0, 4])), 4, "does not fit its shape"),
        (header(a=("F33", [1], [0, 4])), 4, "unknown type 'F33'"),
        (header(a=("F4", [3], [0, 2])), 2, "does not fit its shape"),
        (b'{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}', 4, "unknown type"),
        (b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', 4, "no valid shape"),
        (b'{"a": {"dtype": "F32", "dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}', 4, "'dtype' twice"),
        (b'{"a": {}, "a": {}}', 4, "'a' twice"),
        (b'{"__metadata__": {"x": 1}}', 0, "not a table of texts"),
        (b'{"a": [1]}', 0, "not described by an object"),
        (b"[" * 100_000, 0, "not JSON"),
        (b"\xff\xfe", 0, "not JSON"),
        (b"[1]", 0, "not a JSON object"),
    ],
)
def test_a_header_that_does_not_hold_is_told(content: bytes, data_bytes: int, words: str):
    with pytest.raises(ValueError, match=words):
        parse_header(content, data_bytes)


@given(st.binary(max_size=200), st.integers(0, 1000))
def test_whatever_the_bytes_are_the_answer_is_a_header_or_a_sentence(content: bytes, data_bytes: int):
    try:
        found = parse_header(content, data_bytes)
    except ValueError as error:
        assert str(error)
    else:
        ends = [t["data_offsets"][1] for t in found.values()]
        assert max(ends, default=0) == data_bytes


def test_an_index_that_points_into_the_wrong_file_is_told():
    headers = {"one": {"a": {}}, "two": {"b": {}}}
    assert misplaced_tensors({"a": "one", "b": "two", "c": "not looked at"}, headers) == ()
    assert misplaced_tensors({"a": "two", "c": "one", "b": "two"}, headers) == ("a (two)", "c (one)")


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_numbers_that_are_not_finite_are_counted_as_numpy_counts_them(dtype: str):
    kind = np.dtype(f"<f{ITEM_BITS[dtype] // 8}")
    values = np.array([0.0, -0.0, 1.5, -2.0, np.finfo(kind).max, np.nan, -np.nan, np.inf, -np.inf, np.inf], kind)
    assert count_bad_values(dtype, values.tobytes()) == BadValues(nan=2, infinite=3)


@given(st.lists(st.integers(0, 0xFFFF), max_size=50))
def test_bfloat16_is_the_upper_half_of_a_float(items: list[int]):
    content = np.array(items, "<u2").tobytes()
    wide = (np.array(items, "<u4") << 16).view("<f4")
    expected = BadValues(nan=int(np.isnan(wide).sum()), infinite=int(np.isinf(wide).sum()))
    assert count_bad_values("BF16", content) == expected


def test_eight_bit_floats_have_the_patterns_of_their_standard():
    every = bytes(range(256))
    # OCP 8-bit floating point: E4M3 has no infinity and one NaN a sign, E5M2 is an IEEE format
    assert count_bad_values("F8_E4M3", every) == BadValues(nan=2, infinite=0)
    assert count_bad_values("F8_E5M2", every) == BadValues(nan=6, infinite=2)
    assert set(FLOATS) <= set(ITEM_BITS)
    assert BadValues(1, 2) + BadValues(3, 4) == BadValues(4, 6)
    assert struct.unpack("<e", b"\x00\x7c")[0] == np.inf
