"""The harm stop: its value by quadrature, its false rate by simulation."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.statistics.sequential import HARM_BAR, HarmWatch, harm_e_value, watch_for_harm


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 9), (10, 10), (20, 2), (0, 8), (40, 71)])
def test_the_e_value_is_the_integral(better: int, worse: int) -> None:
    t = np.linspace(0.5, 1.0, 200_001)
    integrand = (2 * t) ** worse * (2 * (1 - t)) ** better
    assert harm_e_value(better, worse) == pytest.approx(2 * np.trapezoid(integrand, t), rel=1e-6)


@given(better=st.integers(0, 60), worse=st.integers(0, 60))
def test_it_is_a_martingale_under_a_fair_coin(better: int, worse: int) -> None:
    now = harm_e_value(better, worse)
    after = (harm_e_value(better + 1, worse) + harm_e_value(better, worse + 1)) / 2
    assert after == pytest.approx(now, rel=1e-9)


def test_an_endless_row_of_losses_is_a_number() -> None:
    assert harm_e_value(0, 5000) > HARM_BAR
    assert harm_e_value(5000, 0) == pytest.approx(0, abs=1e-3)


def test_equal_models_are_stopped_at_most_once_in_twenty() -> None:
    rng = random.Random(5)  # noqa: S311
    stopped = sum(
        watch_for_harm((rng.choice((-1, 1)), "") for _ in range(60)).stopped_at is not None for _ in range(2000)
    )
    assert stopped / 2000 <= 0.05


def test_a_harmful_candidate_is_stopped_early() -> None:
    rng = random.Random(6)  # noqa: S311
    looks = [
        watch_for_harm((rng.choices((-1.0, 1.0, 0.0), (0.15, 0.02, 0.83))[0], "") for _ in range(500)).stopped_at
        for _ in range(200)
    ]
    assert all(looks)
    assert float(np.median([at for at in looks if at])) < 150


def test_a_cluster_is_one_bet() -> None:
    alone = watch_for_harm((-1.0, "") for _ in range(12))
    together = watch_for_harm((-1.0, "same") for _ in range(12))
    assert alone.stopped_at is not None
    assert (together.stopped_at, together.worse) == (None, 1)


def test_it_stays_stopped_where_it_stopped() -> None:
    watch = HarmWatch()
    seen = [watch.see(-1.0) for _ in range(10)]
    assert watch.stopped_at == seen.index(True) + 1
    for _ in range(50):
        assert watch.see(1.0)
    assert watch.stopped_at == seen.index(True) + 1
