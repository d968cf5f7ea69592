"""The line of a transfer."""

import pytest

from modelops_dagster.domain.transfers import transfer_line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((3_200_000_000, 14_100_000_000, 1_180_000_000, 10.0), "3.2 of 14.1 GB (23 %), 118 MB/s, 1:32 left"),
        ((0, 141_000_000_000, 0, 10.0), "0.0 of 141.0 GB (0 %)"),
        ((1_000_000, 100_000_000_000, 1_000_000, 2.0), "0.0 of 100.0 GB (0 %), 500 kB/s, 55:33:18 left"),
        ((2_000_000, 2_000_000, 2_000_000, 0.1), "2.0 of 2.0 MB (100 %)"),
        ((10, 20, 10, 1.0), "10 of 20 bytes (50 %), 0 kB/s, 0:01 left"),
        ((0, 0, 0, 1.0), "0 of 0 bytes (100 %)"),
    ],
)
def test_a_transfer_says_how_fast_and_how_long(arguments: tuple[int, int, int, float], line: str):
    assert transfer_line(*arguments) == line
