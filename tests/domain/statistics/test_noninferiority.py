"""The decision at a margin, and what a number of samples can show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.statistics.noninferiority import (
    design_effect,
    detectable_effect,
    non_inferiority,
    pairs_to_settle,
    samples_needed,
)


@pytest.mark.parametrize(
    ("low", "high", "strict", "decision"),
    [
        (-0.04, 0.02, False, "go"),
        (-0.04, -0.01, False, "go"),  # worse, and certainly within the margin
        (-0.09, -0.01, False, "no_go"),
        (-0.09, -0.01, True, "hold"),
        (-0.12, -0.06, True, "no_go"),
        (-0.08, 0.02, False, "hold"),
        (-0.05, 0.02, False, "hold"),
    ],
)
def test_the_decision_at_a_margin_of_five_points(low: float, high: float, strict: bool, decision: str) -> None:
    assert non_inferiority(low, high, 0.05, strict=strict) == decision


def test_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive"):
        non_inferiority(0.0, 0.1, 0.0)


@pytest.mark.parametrize(
    ("discordance", "margin", "n"),
    [(0.05, 0.01, 3092), (0.10, 0.015, 2748), (0.10, 0.05, 248), (0.15, 0.03, 1031), (0.20, 0.05, 495)],
)
def test_sample_sizes_are_the_published_ones(discordance: float, margin: float, n: int) -> None:
    assert samples_needed(margin, discordance) == pytest.approx(n, abs=1)


@pytest.mark.parametrize(("n", "points"), [(100, 7.9), (150, 6.4), (200, 5.6), (300, 4.5), (500, 3.5), (1000, 2.5)])
def test_detectable_effects_are_the_published_ones(n: int, points: float) -> None:
    assert 100 * detectable_effect(n, 0.10) == pytest.approx(points, abs=0.06)


@given(n=st.integers(20, 5000), discordance=st.floats(0.01, 0.5), deff=st.floats(1, 4))
def test_the_samples_needed_can_show_the_margin(n: int, discordance: float, deff: float) -> None:
    margin = detectable_effect(n, discordance, deff=deff)
    assert samples_needed(margin, discordance, deff=deff) == pytest.approx(n, abs=1)


def test_nothing_shows_nothing() -> None:
    assert detectable_effect(0, 0.1) == float("inf")


def test_design_effect_of_equal_and_unequal_clusters() -> None:
    assert design_effect([1] * 50, 0.3) == 1
    assert design_effect([4] * 10, 0.25) == pytest.approx(1.75)
    assert design_effect([1, 1, 6], 0.5) == pytest.approx(1 + (38 / 8 - 1) * 0.5)
    assert design_effect([], 0.5) == 1


@given(estimate=st.floats(-0.2, 0.2), half=st.floats(0.01, 0.3), n=st.integers(10, 500))
def test_the_pairs_asked_for_settle_a_hold(estimate: float, half: float, n: int) -> None:
    low, high = estimate - half, estimate + half
    if non_inferiority(low, high, 0.05) != "hold" or min(abs(estimate + 0.05), abs(estimate)) < 1e-3:
        return
    more = pairs_to_settle(estimate, low, high, n, 0.05)
    assert more is not None
    later = half * (n / (n + more)) ** 0.5 * (1 - 1e-9)
    assert non_inferiority(estimate - later, estimate + later, 0.05) != "hold"


def test_an_estimate_on_the_bar_is_never_settled() -> None:
    assert pairs_to_settle(-0.05, -0.1, 0.0, 100, 0.05, strict=True) is None
