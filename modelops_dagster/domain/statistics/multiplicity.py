"""Looking at many numbers at once, and looking at those that are missing."""

from collections.abc import Sequence
from dataclasses import dataclass

from modelops_dagster.domain.statistics.proportions import fisher_exact

FALSE_DISCOVERY_RATE = 0.10
MISSING_P = 0.01


def benjamini_hochberg(p_values: Sequence[float], rate: float = FALSE_DISCOVERY_RATE) -> tuple[bool, ...]:
    """Which hypotheses to reject so that at most `rate` of the rejected are expected to be true.

    The largest k with p_(k) <= k rate / m, and every smaller p (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289).
    """
    ranked = sorted(p_values)
    passing = [p for k, p in enumerate(ranked, start=1) if p <= k * rate / len(ranked)]
    bar = passing[-1] if passing else -1.0
    return tuple(p <= bar for p in p_values)


@dataclass(frozen=True, slots=True)
class Missingness:
    """Unscored samples of both arms, and whether they let a comparison stand."""

    candidate: float
    incumbent: float
    p: float
    limit: float

    @property
    def breach(self) -> str:
        """Why nothing may be concluded, or ''."""
        worst = max(self.candidate, self.incumbent)
        if worst > self.limit:
            arm = "candidate" if self.candidate >= self.incumbent else "incumbent"
            return f"{100 * worst:.1f} % of the samples of the {arm} are unscored (the limit is {100 * self.limit:g} %)"
        if self.p < MISSING_P:
            return (
                f"{100 * self.candidate:.1f} % of the candidate's samples and {100 * self.incumbent:.1f} % of the "
                f"incumbent's are unscored, more apart than chance (p = {self.p:.4f})"
            )
        return ""


def missingness(candidate: int, incumbent: int, n: int, limit: float) -> Missingness:
    """Compare how many of n samples each arm left unscored; the difference by Fisher's exact test."""
    if n == 0:
        return Missingness(1.0, 1.0, 1.0, limit)
    return Missingness(candidate / n, incumbent / n, fisher_exact(candidate, n, incumbent, n), limit)
