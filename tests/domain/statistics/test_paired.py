"""The paired difference against hand-worked and published numbers, and its level by simulation."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.statistics.distributions import normal_quantile, student_t
from modelops_dagster.domain.statistics.paired import Pair, cluster_error, paired_difference


def pairs(better: int, worse: int, same: int, **changes: object) -> list[Pair]:
    kinds = [(1.0, 0.0)] * better + [(0.0, 1.0)] * worse + [(1.0, 1.0)] * same
    return [Pair(a, b, **changes) for a, b in kinds]  # type: ignore[arg-type]


def test_binary_pairs_follow_bonett_and_price_by_hand() -> None:
    found = paired_difference(pairs(4, 10, 86))
    up, down = 5 / 102, 11 / 102
    error = math.sqrt((up + down - (up - down) ** 2) / 102)
    assert found.method == "bonett_price"
    assert found.estimate == pytest.approx(-0.06)
    assert found.low == pytest.approx(up - down - 1.6448536 * error, abs=1e-7)
    assert found.high == pytest.approx(up - down + 1.6448536 * error, abs=1e-7)
    assert (found.better, found.worse, found.discordance) == (4, 10, 0.14)
    assert found.mcnemar_p == pytest.approx(0.1796, abs=1e-4)


def test_no_pair_that_differs_still_leaves_room_for_a_difference() -> None:
    found = paired_difference(pairs(0, 0, 50))
    assert found.estimate == 0
    assert found.low < -0.03 < 0.03 < found.high


def test_graded_scores_use_the_paired_t() -> None:
    values = [0.1, -0.2, 0.0, 0.3, 0.05, -0.1, 0.2, 0.0, 0.15, -0.05]
    found = paired_difference([Pair(0.5 + v, 0.5) for v in values])
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    assert found.method == "clustered_t"
    assert found.low == pytest.approx(float(np.mean(values)) - 1.8331129 * error, abs=1e-6)


def test_clusters_widen_and_singletons_do_not() -> None:
    apart = paired_difference(pairs(8, 8, 64))
    together = [Pair(p.candidate, p.incumbent, cluster=f"c{i // 4}") for i, p in enumerate(pairs(8, 8, 64))]
    found = paired_difference(together)
    assert found.method == "bonett_price_clustered"
    assert (found.groups, found.n) == (20, 80)
    assert found.deff == pytest.approx(4, rel=0.1)
    assert found.high - found.low > 1.9 * (apart.high - apart.low)
    named = [Pair(p.candidate, p.incumbent, cluster=f"c{i}") for i, p in enumerate(pairs(8, 8, 64))]
    assert paired_difference(named).low == apart.low


def test_the_clustered_error_is_the_formula() -> None:
    data = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", -1.0), ("c", 0.0)]
    found, groups = cluster_error([Pair(d, 0.0, cluster=c) for c, d in data])
    mean = 0.2
    sums = (2 - 2 * mean, -1 - 2 * mean, -mean)
    assert groups == 3
    assert found == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 5)


def test_few_clusters_fall_back_to_strata() -> None:
    data = [
        Pair(p.candidate, p.incumbent, cluster=f"c{i % 4}", stratum=f"s{i % 2}") for i, p in enumerate(pairs(6, 2, 32))
    ]
    found = paired_difference(data)
    by_stratum = [[p.difference for p in data if p.stratum == s] for s in ("s0", "s1")]
    variance = sum((len(d) / 40) ** 2 * float(np.var(d, ddof=1)) / len(d) for d in by_stratum)
    assert found.method == "stratified_t"
    assert found.low == pytest.approx(0.1 - student_t(0.95, 38) * math.sqrt(variance))


def test_weights_count() -> None:
    found = paired_difference([Pair(1, 0, weight=3), *pairs(0, 1, 8)])
    assert found.method == "clustered_t"
    assert found.estimate == pytest.approx((3 - 1) / 12)


def test_one_pair_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="1 pairs are too few"):
        paired_difference(pairs(1, 0, 0))


@given(better=st.integers(0, 40), worse=st.integers(0, 40), same=st.integers(2, 200))
def test_swapping_the_arms_mirrors_the_interval(better: int, worse: int, same: int) -> None:
    one, other = paired_difference(pairs(better, worse, same)), paired_difference(pairs(worse, better, same))
    assert one.low == pytest.approx(-other.high)
    assert one.mcnemar_p == pytest.approx(other.mcnemar_p)
    assert -1 <= one.low <= one.high <= 1


@pytest.mark.parametrize(("n", "discordance", "margin"), [(100, 0.05, 0.03), (150, 0.05, 0.03), (300, 0.12, 0.05)])
def test_the_level_holds_where_a_plain_wald_interval_does_not(n: int, discordance: float, margin: float) -> None:
    rng = random.Random(4)  # noqa: S311
    up = (discordance - margin) / 2
    wrong = 0
    for _ in range(2000):
        drawn = [rng.random() for _ in range(n)]
        better, worse = sum(u < up for u in drawn), sum(up <= u < discordance for u in drawn)
        wrong += paired_difference(pairs(better, worse, n - better - worse)).low > -margin
    assert wrong / 2000 <= 0.06


def test_a_normal_quantile() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.6448536269514722)
