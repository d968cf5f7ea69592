"""What a set of samples can show: the smallest difference a paired comparison finds, and what zero violations prove."""

import math
from collections.abc import Sequence

PAIRED_FACTOR = 2.487
"""z(0.95) + z(0.80): one-sided 5 % error, 80 % power (Miller, arXiv 2411.00640, for paired differences)."""


def design_effect(sizes: Sequence[int], icc: float) -> float:
    """How many times less a sample in clusters of these sizes tells: 1 + (sum m^2 / n - 1) * ICC (Kish 1965)."""
    n = sum(sizes)
    return 1 + (sum(m * m for m in sizes) / n - 1) * icc if n else 1.0


def paired_mde(n: int, discordance: float, deff: float = 1.0) -> float:
    """Smallest difference in share that a paired comparison of n samples finds with 80 % power, one-sided 5 % error.

    `discordance` is the share of samples on which the two models differ. 2.487 * sqrt(p_d * deff / n).
    """
    return PAIRED_FACTOR * math.sqrt(discordance * deff / n) if n else math.inf


def paired_n(margin: float, discordance: float, deff: float = 1.0) -> int:
    """Samples a paired comparison needs to find a difference of `margin`, as `paired_mde` has it."""
    return math.ceil(PAIRED_FACTOR**2 * discordance * deff / margin**2)


def most_violations(n: int) -> float:
    """Upper end of the exact one-sided 95 % interval for a share of which 0 in n was seen: 1 - 0.05^(1/n)."""
    return 1 - 0.05 ** (1 / n) if n else 1.0
