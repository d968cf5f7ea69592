"""The group size falls back to what the model's widths allow, and says so."""

import pytest

from modelops_dagster.workers.quantize.making import choose_group_size
from modelops_dagster.workers.quantize.reports import Failed


@pytest.mark.parametrize(
    ("widths", "size", "said"),
    [
        ({"a": 4096, "b": 11008}, 128, []),
        ({"a": 576, "b": 1536}, 64, ["group size 64 instead of 128, which does not divide the 576 of a"]),
        ({"a": 1536, "b": 96}, 32, ["group size 32 instead of 128, which does not divide the 96 of b"]),
    ],
)
def test_the_first_that_divides_every_width(widths: dict[str, int], size: int, said: list[str]):
    assert choose_group_size(widths, [128, 64, 32]) == (size, said)


def test_a_scheme_without_groups_and_a_model_that_fits_none():
    assert choose_group_size({"a": 7}, []) == (None, [])
    with pytest.raises(Failed, match="None of the group sizes 128, 64, 32 divides the 100 inputs of a") as caught:
        choose_group_size({"a": 100}, [128, 64, 32])
    assert caught.value.reason == "group_size"
