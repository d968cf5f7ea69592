import pytest

from modelops_dagster.domain.counting import counted


@pytest.mark.parametrize(
    ("n", "said"), [(0, "0 models"), (1, "1 model"), (2, "2 models"), (12_000, "12,000 models"), (-1, "-1 models")]
)
def test_one_of_a_thing_is_one_thing(n: int, said: str):
    assert counted(n, "model") == said


def test_what_takes_no_s():
    assert counted(1, "repository", "repositories") == "1 repository"
    assert counted(2, "repository", "repositories") == "2 repositories"
