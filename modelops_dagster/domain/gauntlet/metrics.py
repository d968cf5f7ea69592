"""Aggregates with their intervals. Standard library only; every formula names its source."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.statistics.distributions import binomial_cdf, student_t
from modelops_dagster.domain.statistics.proportions import exact_lower, exact_upper, wilson


@dataclass(frozen=True, slots=True)
class Scoring:
    """What the aggregates need to know of one scored sample."""

    score: float
    weight: float = 1.0
    cluster: str = ""


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
