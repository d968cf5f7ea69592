"""Intervals of a share, and the tests that compare two counts."""

import math

from modelops_dagster.domain.statistics.distributions import (
    Z95,
    binomial_cdf,
    incomplete_beta,
    normal_quantile,
    solve,
)


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


def wilson_lower(successes: float, n: float, confidence: float = 0.95) -> float:
    """One-sided lower Wilson bound of a share: 58 of 60 gives 0.904."""
    return wilson(successes, n, normal_quantile(confidence))[0]


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


def mcnemar_exact(better: int, worse: int) -> float:
    """Two-sided exact McNemar p-value (McNemar 1947, Psychometrika 12:153): binomial over the pairs that differ.

    Args:
        better, worse: pairs that only the candidate got right, and only the incumbent.
    """
    few, n = min(better, worse), better + worse
    return min(1.0, 2 * binomial_cdf(few, n, 0.5)) if n else 1.0


def worse_sign_test(better: int, worse: int) -> float:
    """One-sided exact p-value against "not worse": P(at most `better` heads in as many tosses as pairs differ)."""
    return binomial_cdf(better, better + worse, 0.5)


def fisher_exact(events_a: int, n_a: int, events_b: int, n_b: int) -> float:
    """Two-sided Fisher exact p-value of two independent shares (Fisher 1922, J. R. Stat. Soc. 85:87).

    Sums the probabilities of every table with the same margins that is at most as likely as the one seen.
    """
    total, n = events_a + events_b, n_a + n_b

    def log_choose(whole: int, part: int) -> float:
        return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)

    def likelihood(k: int) -> float:
        return math.exp(log_choose(n_a, k) + log_choose(n_b, total - k) - log_choose(n, total))

    seen = likelihood(events_a)
    cells = (likelihood(k) for k in range(max(0, total - n_b), min(n_a, total) + 1))
    return min(1.0, math.fsum(p for p in cells if p <= seen * (1 + 1e-9)))
