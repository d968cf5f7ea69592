"""Is the canary worse than the stable endpoint? A sequential test: it may be asked after every call.

Two rates are compared, of failed calls and of slow ones, each a coin of unknown bias per endpoint. The evidence against
"the canary's rate is at most p0" after k hits in n calls is the mixture of likelihood ratios

    e(p0) = mean over p1 of 1[p1 > p0] * (p1^k (1-p1)^(n-k)) / (p0^k (1-p0)^(n-k))

(Robbins 1970; Ramdas et al. 2023, "Game-theoretic statistics and safe anytime-valid inference", section 4). Under the
hypothesis it exceeds 1/alpha at any time with a probability of at most alpha (Ville's inequality), so looking often
costs nothing. p0 is an upper confidence bound of the stable endpoint's rate, found with the same e-value turned around,
plus the difference that is tolerated.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import Field

from modelops_dagster.domain.values import Value

Array = npt.NDArray[np.float64]
_EDGE: Array = np.geomspace(1e-4, 0.05, 60)
_GRID: Array = np.concatenate([_EDGE, np.linspace(0.055, 0.945, 130), 1 - _EDGE[::-1]])
_MIN_STABLE = 20  # before so many calls of the stable endpoint nobody can say what slow is

# Upper edges of the latency bins, in seconds; what is slower falls in one more bin.
LATENCY_EDGES_S: tuple[float, ...] = tuple(float(x) for x in np.geomspace(0.01, 600.0, 63))


class Bounds(Value):
    """How much worse a canary may be before it is rolled back."""

    max_error_increase: float = Field(default=0.02, ge=0, lt=1, description="tolerated difference of error rates")
    max_slowdown: float = Field(default=1.5, ge=1, description="a call is slow above this multiple of the stable p90")
    max_slow_increase: float = Field(default=0.10, ge=0, lt=1, description="tolerated difference of slow calls' share")
    alpha: float = Field(default=0.01, gt=0, lt=1, description="chance that a canary as good as stable is rolled back")


class Outcomes(Value):
    """What became of an endpoint's calls since a trial began."""

    calls: int = 0
    failed: int = 0
    latencies: tuple[int, ...] = Field(
        default=(0,) * (len(LATENCY_EDGES_S) + 1), description="answered calls by latency bin"
    )


class CanaryFinding(Value):
    """What the numbers say."""

    worse: bool
    sentence: str


def latency_bin(seconds: float) -> int:
    """Index of the bin that a latency falls in."""
    return int(np.searchsorted(LATENCY_EDGES_S, seconds, side="left"))


def judge_canary(canary: Outcomes, stable: Outcomes, bounds: Bounds) -> CanaryFinding:
    """Whether the canary fails or is slow more often than stable, beyond the bounds; never by too few calls."""
    alpha = bounds.alpha / 4  # two questions, each with a bound of the stable rate and a test of the canary's
    base = upper_rate(stable.failed, stable.calls, alpha) if stable.calls else 0.0
    limit = min(base + bounds.max_error_increase, 0.99)
    counted = f"{canary.failed} of {canary.calls} calls failed, {stable.failed} of {stable.calls} on the others"
    if exceeds(canary.failed, canary.calls, limit, alpha):
        return CanaryFinding(worse=True, sentence=f"too many errors: {counted}")
    answered = sum(stable.latencies)
    if answered >= _MIN_STABLE:
        edge = _slow_above(stable.latencies, bounds.max_slowdown)
        slow, slow_stable = sum(canary.latencies[edge:]), sum(stable.latencies[edge:])
        total = sum(canary.latencies)
        limit = min(upper_rate(slow_stable, answered, alpha) + bounds.max_slow_increase, 0.99)
        if exceeds(slow, total, limit, alpha):
            told = f"too slow: {slow} of {total} answers took over {LATENCY_EDGES_S[edge - 1]:.2g} s"
            return CanaryFinding(worse=True, sentence=f"{told}, {slow_stable} of {answered} on the others")
    return CanaryFinding(worse=False, sentence=counted)


def exceeds(hits: int, trials: int, rate: float, alpha: float) -> bool:
    """Whether the true rate is above `rate`, at any time with an error of at most `alpha`."""
    if trials == 0 or hits / trials <= rate:
        return False
    above = _GRID[rate < _GRID]
    if above.size == 0:
        return False
    null = _log_likelihood(hits, trials, np.array([max(rate, 1e-6)]))[0]
    ratios = _log_likelihood(hits, trials, above) - null
    peak = float(ratios.max())
    log_e = peak + float(np.log(np.exp(ratios - peak).sum() / _GRID.size))
    return log_e >= float(np.log(1 / alpha))


@lru_cache(maxsize=4096)
def upper_rate(hits: int, trials: int, alpha: float) -> float:
    """An upper bound of the true rate that holds at all times with a probability of 1 - alpha, by bisection."""
    low, high = hits / trials, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if exceeds(trials - hits, trials, 1 - middle, alpha):
            high = middle
        else:
            low = middle
    return high


def _log_likelihood(hits: int, trials: int, rates: Array) -> Array:
    found: Array = hits * np.log(rates) + (trials - hits) * np.log1p(-rates)
    return found


def _slow_above(latencies: Sequence[int], slowdown: float) -> int:
    """Index of the first bin that counts as slow: above `slowdown` times the upper edge of the p90's bin."""
    counts = np.cumsum(latencies)
    p90 = int(np.searchsorted(counts, 0.9 * counts[-1]))
    edge = LATENCY_EDGES_S[min(p90, len(LATENCY_EDGES_S) - 1)] * slowdown
    return min(latency_bin(edge) + 1, len(LATENCY_EDGES_S))
