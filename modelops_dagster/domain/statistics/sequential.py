"""Stopping early for harm, valid at every look."""

import math
from collections.abc import Iterable

from modelops_dagster.domain.statistics.distributions import incomplete_beta

HARM_BAR = 20.0
"""An e-value this high happens to a candidate that is not worse at most once in 20 comparisons (Ville 1939)."""


def harm_e_value(better: int, worse: int) -> float:
    """Evidence against "a pair that differs is at most as likely to favour the incumbent", as an e-value.

    M = 2 * integral from 1/2 to 1 of (2t)^worse (2(1-t))^better dt
      = 2^(b+w+1) B(w+1, b+1) (1 - I_{1/2}(w+1, b+1)),
    the mixture over t of likelihood ratios against a fair coin (Robbins 1970, Ann. Math. Stat. 41:1397; Ramdas et al.
    2023, Stat. Sci. 38:576). Under a fair coin it is a non-negative martingale, so every look is allowed.
    """
    tail = incomplete_beta(better + 1, worse + 1, 0.5)  # 1 - I_{1/2}(w+1, b+1), without cancellation
    if tail <= 0:
        return 0.0
    log_beta = math.lgamma(worse + 1) + math.lgamma(better + 1) - math.lgamma(better + worse + 2)
    return math.exp(min(700.0, (better + worse + 1) * math.log(2) + log_beta + math.log(tail)))


class HarmWatch:
    """Follows the pairs in the order in which they were asked; `stopped_at` is the pair that crossed the bar.

    Samples of one cluster are not independent bets, so a cluster counts with the first of its pairs that differs.
    """

    def __init__(self, bar: float = HARM_BAR) -> None:
        self.better = self.worse = self.seen = 0
        self.highest = 1.0
        self.stopped_at: int | None = None
        self._bar = bar
        self._clusters: set[str] = set()

    def see(self, difference: float, cluster: str = "") -> bool:
        """Account for the next pair; True from the one on that crosses the bar, and nothing counts after it."""
        if self.stopped_at is not None:
            return True
        self.seen += 1
        if difference and (not cluster or cluster not in self._clusters):
            self._clusters.add(cluster)
            self.better += difference > 0
            self.worse += difference < 0
            self.highest = max(self.highest, harm_e_value(self.better, self.worse))
            if self.highest >= self._bar:
                self.stopped_at = self.seen
        return self.stopped_at is not None


def watch_for_harm(pairs: Iterable[tuple[float, str]], bar: float = HARM_BAR) -> HarmWatch:
    """The watch after all (difference, cluster) pairs, in the order in which they were asked."""
    watch = HarmWatch(bar)
    for difference, cluster in pairs:
        watch.see(difference, cluster)
    return watch
