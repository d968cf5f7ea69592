"""Is the candidate no worse than the incumbent by more than a margin, and can so many samples tell?"""

import math
from collections.abc import Sequence
from typing import Literal

from modelops_dagster.domain.statistics.distributions import normal_quantile

Decision = Literal["go", "no_go", "hold"]
POWER = 0.80


def non_inferiority(low: float, high: float, margin: float, *, strict: bool = False) -> Decision:
    """Decide from one-sided bounds of the difference (Blackwelder 1982, Control. Clin. Trials 3:345).

    go: low > -margin. no_go: high < 0, a significant regression; with `strict`, high < -margin, a regression that is
    certainly beyond the margin. hold: neither. A candidate can be significantly worse and certainly within the margin:
    that is a go, because the margin is what was agreed to be negligible.

    Raises:
        ValueError: the margin is not positive.
    """
    if margin <= 0:
        raise ValueError(f"a margin of {margin} is not positive")
    if low > -margin:
        return "go"
    return "no_go" if high < (-margin if strict else 0.0) else "hold"


def detectable_effect(
    n: int, discordance: float, *, deff: float = 1.0, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest margin at which n pairs let an equal candidate go with this power.

    MDE = (z_alpha + z_power) sqrt(p_d deff / n), with p_d the share of pairs that differ (Connor 1987, Biometrics
    43:207, at equal rates); 2.487 sqrt(p_d deff / n) by default.
    """
    return _factor(alpha, power) * math.sqrt(discordance * deff / n) if n > 0 else math.inf


def samples_needed(
    margin: float, discordance: float, *, deff: float = 1.0, alpha: float = 0.05, power: float = POWER
) -> int:
    """How many pairs a margin needs: n = (z_alpha + z_power)^2 p_d deff / margin^2, rounded up."""
    return math.ceil(_factor(alpha, power) ** 2 * discordance * deff / margin**2 - 1e-9)


def pairs_to_settle(
    estimate: float, low: float, high: float, n: int, margin: float, *, strict: bool = False
) -> int | None:
    """How many further pairs would end a hold, if they came out as the n seen so far.

    The bounds shrink with the square root of n. Above -margin the lower one has to clear it; otherwise the upper one
    has to fall below 0, or below -margin when `strict`.

    Returns:
        At least 1, or None when the estimate lies on the bar, which no number of pairs moves off it.
    """
    bar = -margin if estimate > -margin or strict else 0.0
    distance = abs(estimate - bar)
    if distance < 1e-12:
        return None
    return max(1, math.ceil(n * ((high - low) / 2 / distance) ** 2 - 1e-9) - n)


def design_effect(cluster_sizes: Sequence[int], icc: float) -> float:
    """How much clusters inflate the variance: 1 + (m - 1) ICC, with m the mean cluster size as a sample sees it.

    Kish (1965, Survey Sampling, 5.4); m = sum m_g^2 / sum m_g for clusters of unequal size.

    Args:
        icc: intra-cluster correlation of the differences, 0 to 1.
    """
    total = sum(cluster_sizes)
    return 1 + (sum(m * m for m in cluster_sizes) / total - 1) * icc if total else 1.0


def _factor(alpha: float, power: float) -> float:
    return normal_quantile(1 - alpha) + normal_quantile(power)
