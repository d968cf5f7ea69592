"""Distribution functions and quantiles to near double precision, without SciPy."""

import math
from collections.abc import Callable
from statistics import NormalDist

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: two-sided 95 %."""


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


def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution (Wichura 1988, AS 241, as the standard library has it)."""
    return NormalDist().inv_cdf(p)


def student_cdf(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` degrees of freedom, from the incomplete beta function (AS 26.7.1)."""
    tail = 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return 1.0 - tail if t >= 0 else tail


def student_t(p: float, df: float) -> float:
    """Quantile of Student's t with `df` degrees of freedom, from the incomplete beta function (AS 26.7.1)."""
    if df <= 0 or not 0 < p < 1:
        raise ValueError(f"no quantile {p} of t with {df} degrees of freedom")
    if p < 0.5:
        return -student_t(1 - p, df)
    high = 2.0
    while student_cdf(high, df) < p and high < 1e12:
        high *= 2
    return solve(lambda t: student_cdf(t, df), p, 0.0, high)


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) for n trials of probability p."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else 1.0 - incomplete_beta(k + 1, n - k, p)
