"""False discovery, missing answers, and the exact tests behind them."""

import numpy as np
import pytest

from modelops_dagster.domain.statistics.multiplicity import benjamini_hochberg, missingness
from modelops_dagster.domain.statistics.proportions import (
    exact_upper,
    fisher_exact,
    mcnemar_exact,
    wilson_lower,
    worse_sign_test,
)


def test_benjamini_and_hochberg_s_own_example() -> None:
    # 1995, section 3.2: 15 p-values, at q = 0.05 the four smallest are rejected
    p = (
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.324,
        0.4262,
        0.5719,
        0.6528,
        0.759,
        1,
    )
    assert benjamini_hochberg(p, 0.05) == (True,) * 4 + (False,) * 11
    assert benjamini_hochberg((), 0.05) == ()
    assert benjamini_hochberg((0.9, 0.8), 0.1) == (False, False)


def test_alarms_over_equal_categories_are_rare() -> None:
    rng = np.random.default_rng(3)
    assert np.mean([any(benjamini_hochberg(rng.random(8))) for _ in range(2000)]) <= 0.12


def test_fisher_s_lady_tasting_tea() -> None:
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(0.4857, abs=1e-4)
    assert fisher_exact(0, 50, 8, 50) == pytest.approx(0.00578, abs=1e-4)
    assert fisher_exact(0, 300, 0, 300) == 1


def test_exact_mcnemar_and_its_one_sided_half() -> None:
    assert mcnemar_exact(2, 10) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar_exact(0, 0) == 1
    assert worse_sign_test(2, 10) == pytest.approx((1 + 12 + 66) / 4096)


@pytest.mark.parametrize(("right", "n", "bound"), [(58, 60, 0.904), (60, 60, 0.957), (99, 100, 0.956)])
def test_one_sided_wilson_bounds(right: int, n: int, bound: float) -> None:
    assert wilson_lower(right, n) == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize(("n", "percent"), [(30, 9.5), (60, 4.9), (100, 3.0), (200, 1.5), (300, 1.0)])
def test_no_failure_in_n_is_not_none(n: int, percent: float) -> None:
    assert 100 * exact_upper(0, n) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "n", "words"),
    [
        (0, 0, 300, ""),
        (5, 3, 300, ""),
        (30, 0, 300, "10.0 % of the samples of the candidate are unscored (the limit is 2 %)"),
        (0, 9, 300, "3.0 % of the samples of the incumbent"),
        (20, 0, 1000, "more apart than chance"),
        (0, 0, 0, "100.0 % of the samples"),
    ],
)
def test_missing_answers_forbid_a_conclusion(candidate: int, incumbent: int, n: int, words: str) -> None:
    breach = missingness(candidate, incumbent, n, 0.02).breach
    assert words in breach
    assert bool(words) == bool(breach)
