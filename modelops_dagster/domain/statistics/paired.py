"""The difference of two models on the same samples.

Each sample is one pair: the mean score over its epochs of the candidate, and of the incumbent. Pairing takes the
difficulty of the samples out of the comparison, which about halves what an unpaired one can detect.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelops_dagster.domain.statistics.distributions import normal_quantile, student_t
from modelops_dagster.domain.statistics.proportions import mcnemar_exact

Method = Literal["bonett_price", "bonett_price_clustered", "clustered_t", "stratified_t"]
FEWEST_CLUSTERS = 10
"""Below this many clusters their own variance is not estimable, and fixed strata are used instead."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample asked of both arms. Scores are in [0, 1], averaged over epochs."""

    candidate: float
    incumbent: float
    weight: float = 1.0
    cluster: str = ""
    stratum: str = ""

    @property
    def difference(self) -> float:
        return self.candidate - self.incumbent


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus incumbent. `low` and `high` are one-sided bounds, each at the asked confidence."""

    estimate: float
    low: float
    high: float
    n: int
    groups: int
    better: int
    worse: int
    deff: float
    method: Method

    @property
    def discordance(self) -> float:
        """Share of pairs in which the arms differ."""
        return (self.better + self.worse) / self.n

    @property
    def mcnemar_p(self) -> float:
        """Two-sided exact p-value over the pairs that differ; for graded scores, a sign test."""
        return mcnemar_exact(self.better, self.worse)


def paired_difference(pairs: Sequence[Pair], confidence: float = 0.95) -> Difference:
    """The weighted mean difference with its one-sided bounds.

    - Scores that are 0 or 1, equally weighted: Bonett and Price's adjusted Wald interval (2012, J. Educ. Behav. Stat.
      37:479), which keeps its level where few pairs differ. Clusters count by their effective number of samples, and t
      with G - 1 degrees of freedom takes the place of the normal.
    - Graded scores or weights: clustered standard error with t (Miller 2024, arXiv 2411.00640).
    - Fewer than 10 clusters that hold several samples: categories as fixed strata, Var = sum_h W_h^2 s_h^2 / n_h
      (Cochran 1977, Sampling Techniques, 5.6).

    Raises:
        ValueError: fewer than two pairs.
    """
    n = len(pairs)
    if n < 2:
        raise ValueError(f"{n} pairs are too few for a difference")
    better = sum(p.difference > 0 for p in pairs)
    worse = sum(p.difference < 0 for p in pairs)
    weights = [p.weight for p in pairs]
    total = math.fsum(weights)
    estimate = math.fsum(p.weight * p.difference for p in pairs) / total
    error, groups = _clustered_error(pairs, estimate, total)
    is_clustered = groups < n
    deff = _design_effect(pairs, estimate, total, error) if is_clustered else 1.0
    is_plain = len(set(weights)) == 1 and all(p.difference in (-1.0, 0.0, 1.0) for p in pairs)
    method: Method
    if is_clustered and groups < FEWEST_CLUSTERS:
        center, half = estimate, _stratified_half(pairs, total, confidence)
        method = "stratified_t"
    elif is_plain:
        center, half = _bonett_price(better, worse, n, groups, deff, confidence)
        method = "bonett_price_clustered" if is_clustered else "bonett_price"
    else:
        center, half = estimate, student_t(confidence, groups - 1) * error
        method = "clustered_t"
    return Difference(
        estimate, max(-1.0, center - half), min(1.0, center + half), n, groups, better, worse, deff, method
    )


def cluster_error(pairs: Sequence[Pair]) -> tuple[float, int]:
    """Standard error of the mean difference by clusters, and their number G.

    SE = 1/sum(w) sqrt( G/(G-1) sum_g ( sum_{i in g} w_i (d_i - D) )^2 ), to be used with t of G - 1 degrees of freedom.
    """
    total = math.fsum(p.weight for p in pairs)
    return _clustered_error(pairs, math.fsum(p.weight * p.difference for p in pairs) / total, total)


def _clustered_error(pairs: Sequence[Pair], mean: float, total: float) -> tuple[float, int]:
    sums: dict[str, float] = defaultdict(float)
    for i, p in enumerate(pairs):
        sums[p.cluster or f"\0{i}"] += p.weight * (p.difference - mean)
    groups = len(sums)
    if groups < 2:
        return math.inf, groups
    return math.sqrt(groups / (groups - 1) * math.fsum(v * v for v in sums.values())) / total, groups


def _design_effect(pairs: Sequence[Pair], mean: float, total: float, error: float) -> float:
    """How much the clusters inflate the variance; never below 1, because noise must not narrow an interval."""
    n = len(pairs)
    plain = math.sqrt(n / (n - 1) * math.fsum((p.weight * (p.difference - mean)) ** 2 for p in pairs)) / total
    return max(1.0, (error / plain) ** 2) if plain > 0 and math.isfinite(error) else 1.0


def _bonett_price(better: int, worse: int, n: int, groups: int, deff: float, confidence: float) -> tuple[float, float]:
    """Center and half-width: p~ = (count + 1) / (n + 2), SE = sqrt((p~10 + p~01 - (p~10 - p~01)^2) / (n + 2)).

    Clusters divide the counts and n by the design effect, so that the adjustment weighs as it would with as many
    independent samples.
    """
    # where no pair differs nothing tells how alike the samples of a cluster are, so a cluster counts once
    size = n / deff if better + worse else groups
    up, down = (better / deff + 1) / (size + 2), (worse / deff + 1) / (size + 2)
    error = math.sqrt((up + down - (up - down) ** 2) / (size + 2))
    factor = normal_quantile(confidence) if groups == n else student_t(confidence, groups - 1)
    return up - down, factor * error


def _stratified_half(pairs: Sequence[Pair], total: float, confidence: float) -> float:
    strata: dict[str, list[Pair]] = defaultdict(list)
    for p in pairs:
        strata[p.stratum].append(p)
    # a stratum of one sample has no variance of its own
    single = [name for name, held in strata.items() if len(held) < 2]
    rest = [strata.pop(name)[0] for name in single]
    if len(rest) == 1 and strata:
        strata[min(strata)] += rest
    elif rest:
        strata["\0rest"] = rest
    variance = 0.0
    for held in strata.values():
        share, mean = math.fsum(p.weight for p in held) / total, math.fsum(p.difference for p in held) / len(held)
        spread = math.fsum((p.difference - mean) ** 2 for p in held) / max(1, len(held) - 1)
        variance += share**2 * spread / len(held)
    return student_t(confidence, max(1, len(pairs) - len(strata))) * math.sqrt(variance)
