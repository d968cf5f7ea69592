"""Aggregates with their intervals. Standard library only; every formula names its source."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelops_dagster.domain.gauntlet.report import Metric

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the aggregates need to know of one scored sample."""

    score: float
    weight: float = 1.0
    cluster: str = ""


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of a share (Wilson 1927, JASA 22:209). `n` may be an effective sample size.

    Raises:
        ValueError: n is not positive, or successes is outside 0 to n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a share")
    p, z2 = successes / n, z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if successes == 0 else max(0.0, middle - half)), (1.0 if successes == n else min(1.0, middle + half))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function I_x(a, b), by Lentz's continued fraction (Numerical Recipes 6.4)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / ((1.0 - (a + b) * x / (a + 1)) or tiny)
    value = d
    for m in range(1, 500):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / ((1.0 + step * d) or tiny)
            c = (1.0 + step / c) or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * value


def solve(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function reaches `wanted`, by bisection between `low` and `high`."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


def exact_upper(events: int, n: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of a share (Clopper & Pearson 1934, Biometrika 26:404). 0 of 59 gives just below 5 %.

    Raises:
        ValueError: n is not positive, or events is outside 0 to n.
    """
    if n <= 0 or not 0 <= events <= n:
        raise ValueError(f"{events} of {n} is not a share")
    if events == n:
        return 1.0
    return solve(lambda p: incomplete_beta(events + 1, n - events, p), confidence, 0.0, 1.0)


def exact_lower(events: int, n: int, confidence: float = 0.95) -> float:
    """One-sided lower bound of a share (Clopper & Pearson 1934)."""
    return 1.0 - exact_upper(n - events, n, confidence)


def student_t(p: float, df: float) -> float:
    """Quantile of Student's t with `df` degrees of freedom, from the incomplete beta function (AS 26.7.1)."""
    if df <= 0 or not 0 < p < 1:
        raise ValueError(f"no quantile {p} of t with {df} degrees of freedom")
    if p < 0.5:
        return -student_t(1 - p, df)

    def below(t: float) -> float:
        return 1.0 - 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))

    high = 2.0
    while below(high) < p and high < 1e12:
        high *= 2
    return solve(below, p, 0.0, high)


def weighted_mean(scorings: Sequence[Scoring]) -> float:
    return math.fsum(s.score * s.weight for s in scorings) / math.fsum(s.weight for s in scorings)


def clustered_error(scorings: Sequence[Scoring]) -> tuple[float, int]:
    """Standard error of the weighted mean, and the number of clusters G behind it.

    SE = 1/sum(w) * sqrt( G/(G-1) * sum_g ( sum_{i in g} w_i (y_i - mean) )^2 ): Miller 2024 (arXiv 2411.00640)
    with the small-G factor. With one sample per cluster and equal weights it is s / sqrt(n).
    """
    mean, total = weighted_mean(scorings), math.fsum(s.weight for s in scorings)
    sums: dict[str, float] = defaultdict(float)
    for i, s in enumerate(scorings):
        sums[s.cluster or f"\0{i}"] += s.weight * (s.score - mean)
    groups = len(sums)
    if groups < 2:
        return math.inf, groups
    return math.sqrt(groups / (groups - 1) * math.fsum(v * v for v in sums.values())) / total, groups


def mean_interval(scorings: Sequence[Scoring]) -> tuple[float, float]:
    """95 % interval of the weighted mean of scores in [0, 1].

    All scores 0 or 1: Wilson on the effective sample size n_eff = p (1 - p) / SE_clustered^2, at most n (Dean & Pagano
    2015, J. Surv. Stat. Methodol. 3:484); a share of 0 or 1 has no SE, so its n_eff is the number of clusters. Other
    scores: t with G - 1 degrees of freedom, cut to [0, 1].
    """
    mean, n = weighted_mean(scorings), len(scorings)
    error, groups = clustered_error(scorings)
    if all(s.score in (0, 1) for s in scorings):
        effective = float(n)
        if groups < 2 or error == 0:
            effective = float(max(1, groups))
        else:
            effective = min(effective, mean * (1 - mean) * (n / (n - 1)) / error**2)
        return wilson(min(mean, 1.0) * effective, effective)
    if groups < 2:
        return 0.0, 1.0
    half = student_t(0.975, groups - 1) * error
    return max(0.0, mean - half), min(1.0, mean + half)


def mean_metric(name: str, scorings: Sequence[Scoring], unit: str = "share") -> Metric:
    """The weighted mean with its 95 % interval; without a value when nothing was scored."""
    if not scorings:
        return Metric(name=name, value=None, n=0, unit=unit)
    low, high = mean_interval(scorings)
    return Metric(name=name, value=weighted_mean(scorings), ci_low=low, ci_high=high, n=len(scorings), unit=unit)


def event_metric(name: str, events: int, n: int) -> Metric:
    """A share of unwanted events. Both ends are exact one-sided 95 % bounds: a policy reads `ci_high`."""
    if n == 0:
        return Metric(name=name, value=None, n=0, unit="share")
    return Metric(
        name=name, value=events / n, ci_low=exact_lower(events, n), ci_high=exact_upper(events, n), n=n, unit="share"
    )


def share_metric(name: str, events: int, n: int) -> Metric:
    """A share with its Wilson interval."""
    if n == 0:
        return Metric(name=name, value=None, n=0, unit="share")
    low, high = wilson(events, n)
    return Metric(name=name, value=events / n, ci_low=low, ci_high=high, n=n, unit="share")


def percentile(values: Sequence[float], q: float) -> float:
    """Percentile with linear interpolation between order statistics (Hyndman & Fan 1996, type 7; numpy's default).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for n trials of probability p."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else 1.0 - incomplete_beta(k + 1, n - k, p)


def percentile_interval(values: Sequence[float], q: float) -> tuple[float | None, float | None]:
    """Distribution-free 95 % interval of a percentile from order statistics (David & Nagaraja, Order Statistics, 7.1).

    An end is None where the sample is too small to have one: the 95th percentile needs 72 values for an upper end.
    """
    ordered, n = sorted(values), len(values)
    low = next((k for k in range(n, 0, -1) if binomial_cdf(k - 1, n, q) <= 0.025), None)
    high = next((k for k in range(1, n + 1) if binomial_cdf(k - 1, n, q) >= 0.975), None)
    return (ordered[low - 1] if low else None), (ordered[high - 1] if high else None)


def percentile_metric(name: str, values: Sequence[float], q: float, unit: str = "ms") -> Metric:
    """A percentile with its interval; without a value when there are none."""
    if not values:
        return Metric(name=name, value=None, n=0, unit=unit)
    low, high = percentile_interval(values, q)
    return Metric(name=name, value=percentile(values, q), ci_low=low, ci_high=high, n=len(values), unit=unit)
