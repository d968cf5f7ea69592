"""The canary's sequential test: it finds what is worse, and leaves what is as good alone however often it is asked."""

import numpy as np
import pytest

from modelops_dagster.domain.canary import (
    LATENCY_EDGES_S,
    Bounds,
    Outcomes,
    exceeds,
    judge_canary,
    latency_bin,
    upper_rate,
)

STRICT = Bounds(max_error_increase=0.0, max_slow_increase=0.0, max_slowdown=1.0)


def outcomes(calls: int, failed: int, seconds: float = 0.5) -> Outcomes:
    bins = [0] * (len(LATENCY_EDGES_S) + 1)
    bins[latency_bin(seconds)] = calls - failed
    return Outcomes(calls=calls, failed=failed, latencies=tuple(bins))


def test_a_canary_that_fails_every_call_is_found_within_a_few() -> None:
    stable = outcomes(400, 2)
    needed = next(n for n in range(1, 100) if judge_canary(outcomes(n, n), stable, Bounds()).worse)
    assert 2 <= needed <= 8
    found = judge_canary(outcomes(20, 20), stable, Bounds())
    assert found.worse
    assert found.sentence == "too many errors: 20 of 20 calls failed, 2 of 400 on the others"


def test_one_failure_says_nothing_and_neither_does_no_call() -> None:
    assert not judge_canary(outcomes(1, 1), outcomes(1000, 0), Bounds()).worse
    assert not judge_canary(Outcomes(), outcomes(1000, 0), Bounds()).worse
    assert not judge_canary(Outcomes(), Outcomes(), Bounds()).worse


def test_what_is_as_bad_as_the_others_is_not_rolled_back() -> None:
    assert not judge_canary(outcomes(500, 150), outcomes(5000, 1500), Bounds()).worse
    assert judge_canary(outcomes(500, 250), outcomes(5000, 1500), Bounds()).worse


def test_a_slow_canary_is_found_although_nothing_fails() -> None:
    stable = outcomes(1000, 0, seconds=0.5)
    found = judge_canary(outcomes(60, 0, seconds=3.0), stable, Bounds())
    assert found.worse
    assert found.sentence.startswith("too slow: 60 of 60 answers took over ")
    assert not judge_canary(outcomes(60, 0, seconds=0.55), stable, Bounds()).worse
    assert not judge_canary(outcomes(60, 0, seconds=3.0), outcomes(5, 0), Bounds()).worse, "nobody knows what slow is"


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_a_canary_as_good_as_stable_is_rolled_back_with_a_chance_below_alpha(rate: float) -> None:
    """Asked after every tenth call of 600, at the strictest bounds: with alpha 0.2, at most a fifth of the trials."""
    rng, wrong, trials = np.random.default_rng(7), 0, 100
    bounds = STRICT.model_copy(update={"alpha": 0.2})
    for _ in range(trials):
        canary, stable = (np.cumsum(rng.random(n) < rate) for n in (600, 6000))
        looks = range(10, 600, 10)
        wrong += any(
            judge_canary(outcomes(n, int(canary[n - 1])), outcomes(10 * n, int(stable[10 * n - 1])), bounds).worse
            for n in looks
        )
    assert wrong <= 0.2 * trials


def test_bounds_of_a_rate_hold_and_close_in() -> None:
    wide, narrow = upper_rate(1, 20, 0.01), upper_rate(50, 1000, 0.01)
    assert 0.05 < narrow < 0.1 < wide < 0.6
    assert not exceeds(0, 0, 0.1, 0.01)
    assert not exceeds(5, 100, 0.05, 0.01)
    assert exceeds(100, 100, 0.5, 0.01)


def test_every_latency_has_a_bin() -> None:
    assert latency_bin(0.0) == 0
    assert latency_bin(1e9) == len(LATENCY_EDGES_S)
    assert LATENCY_EDGES_S[latency_bin(1.0)] >= 1.0 > LATENCY_EDGES_S[latency_bin(1.0) - 1]
