"""What a grader's verdicts are worth: agreement with people, and means corrected for its errors."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from modelops_dagster.domain.statistics.distributions import Z95
from modelops_dagster.domain.statistics.proportions import wilson

LEAST_CHANCE = 0.05
"""A sample that could hardly be picked for a label makes the corrected mean as uncertain as if there were none."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """A grader against people, over samples that both judged. The last two are the effective numbers behind the first
    two estimates: answers that people called right, and wrong."""

    n: int
    sensitivity: Estimate
    specificity: Estimate
    kappa: Estimate
    ac1: float
    n_right: float
    n_wrong: float

    @property
    def skill(self) -> Estimate:
        """As `skill_of`."""
        return skill_of(self.sensitivity, self.specificity)


def skill_of(sensitivity: Estimate, specificity: Estimate) -> Estimate:
    """Sensitivity + specificity - 1 (Youden 1950, Cancer 3:32): 0 is a coin, 1 a person.

    The interval is put together from the two given (MOVER; Zou and Donner 2008, Stat. Med. 27:1693).
    """
    se, sp = sensitivity, specificity
    value = se.value + sp.value - 1
    down, up = math.hypot(se.value - se.low, sp.value - sp.low), math.hypot(se.high - se.value, sp.high - sp.value)
    return Estimate(value, value - down, value + up)


def agreement(grader: Sequence[bool], human: Sequence[bool], weights: Sequence[float] | None = None) -> Agreement:
    """Sensitivity and specificity with Wilson intervals, Cohen's kappa and Gwet's AC1.

    With `weights` (1 / chance of a label, where answers were picked on purpose) the shares are weighted, and every
    interval rests on the effective number (sum w)^2 / sum w^2 (Kish 1965, Survey Sampling) of the answers behind it.

    Kappa's interval uses the large-sample variance of Fleiss, Cohen and Everitt (1969, Psychol. Bull. 72:323). AC1
    (Gwet 2008, Br. J. Math. Stat. Psychol. 61:29) stays meaningful where nearly all samples are of one kind.

    Raises:
        ValueError: different lengths, or people found no right (or no wrong) answer.
    """
    n, found = len(human), sum(human)
    if n != len(grader):
        raise ValueError(f"{len(grader)} verdicts of the grader stand against {n} of people")
    if found in (0, n):
        raise ValueError(f"people called {found} of {n} answers right; both kinds are needed")
    judged = list(zip(grader, human, weights or [1.0] * n, strict=True))
    whole = math.fsum(w for _, _, w in judged)
    right = math.fsum(w for _, h, w in judged if h) / whole
    both = math.fsum(w for g, h, w in judged if g and h) / whole
    called = math.fsum(w for g, _, w in judged if g) / whole
    wrong = math.fsum(w for _, h, w in judged if not h) / whole
    neither = math.fsum(w for g, h, w in judged if not g and not h) / whole
    prevalence = (called + right) / 2
    chance = 2 * prevalence * (1 - prevalence)
    n_right, n_wrong = (_effective([w for _, h, w in judged if h is kind]) for kind in (True, False))
    se, sp = both / right, neither / wrong
    return Agreement(
        n=n,
        sensitivity=Estimate(se, *wilson(se * n_right, n_right)),
        specificity=Estimate(sp, *wilson(sp * n_wrong, n_wrong)),
        kappa=_kappa(((both, called - both), (right - both, neither)), _effective([w for *_, w in judged])),
        ac1=(both + neither - chance) / (1 - chance),
        n_right=n_right,
        n_wrong=n_wrong,
    )


def _effective(weights: Sequence[float]) -> float:
    return math.fsum(weights) ** 2 / math.fsum(w * w for w in weights)


def _kappa(table: Sequence[Sequence[float]], n: float) -> Estimate:
    # [grader][human]
    rows = [sum(row) for row in table]
    columns = [table[0][j] + table[1][j] for j in (0, 1)]
    observed, chance = table[0][0] + table[1][1], rows[0] * columns[0] + rows[1] * columns[1]
    kappa = (observed - chance) / (1 - chance)
    agree = sum(table[i][i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    differ = (1 - kappa) ** 2 * sum(table[i][1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    spread = agree + differ - (kappa - chance * (1 - kappa)) ** 2
    half = Z95 * math.sqrt(max(0.0, spread) / n) / (1 - chance)
    return Estimate(kappa, max(-1.0, kappa - half), min(1.0, kappa + half))


def alpha(units: Sequence[Sequence[float]]) -> float | None:
    """How far people agree with each other beyond chance: Krippendorff's alpha for nominal values.

    alpha = 1 - D_o / D_e (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability): 1 when all agree, 0 when they
    agree as chance would have it. Units with one value are left out.

    Args:
        units: for each thing judged, what each person said of it.

    Returns:
        None when nothing was judged twice, or everybody always said the same one thing, where chance explains it all.
    """
    both = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in both for value in unit)
    n = counts.total()
    expected = n * n - sum(c * c for c in counts.values())
    if not expected:
        return None
    observed = 0.0
    for unit in both:
        mine = Counter(unit)
        observed += (len(unit) ** 2 - sum(c * c for c in mine.values())) / (len(unit) - 1)
    return 1 - (n - 1) * observed / expected


def rogan_gladen(positive: float, n: float, *, right: tuple[float, float], wrong: tuple[float, float]) -> Estimate:
    """The share of right answers behind a grader's share, corrected for its sensitivity and specificity.

    p = (q + sp - 1) / (se + sp - 1) (Rogan and Gladen 1978, Am. J. Epidemiol. 107:71). The interval is the delta
    method's with the calibration's own error, every count adjusted as in Lang and Reiczigel (2014, Prev. Vet. Med.
    113:13): Var = (q(1-q)/n + p^2 se(1-se)/n1 + (1-p)^2 sp(1-sp)/n0) / (se + sp - 1)^2.

    Args (effective numbers need not be whole):
        positive, n: answers the grader called right, of all it judged.
        right: of the answers people called right, how many the grader did, and how many there were.
        wrong: of the answers people called wrong, how many the grader did, and how many there were.

    Raises:
        ValueError: the grader tells right from wrong no better than a coin.
    """
    (hits, n1), (rejections, n0) = right, wrong
    se, sp, q = hits / n1, rejections / n0, positive / n
    if se + sp - 1 <= 0:
        raise ValueError(f"a grader of sensitivity {se:.2f} and specificity {sp:.2f} is no better than a coin")
    value = (q + sp - 1) / (se + sp - 1)
    z2 = Z95**2
    se_, sp_, q_ = (hits + 1) / (n1 + 2), (rejections + 1) / (n0 + 2), (positive + z2 / 2) / (n + z2)
    skill = max(se_ + sp_ - 1, 1e-9)
    p_ = min(1.0, max(0.0, (q_ + sp_ - 1) / skill))
    spread = q_ * (1 - q_) / (n + z2) + p_**2 * se_ * (1 - se_) / (n1 + 2) + (1 - p_) ** 2 * sp_ * (1 - sp_) / (n0 + 2)
    half = Z95 * math.sqrt(spread) / skill
    value = min(1.0, max(0.0, value))
    return Estimate(value, max(0.0, min(value, p_ - half)), min(1.0, max(value, p_ + half)))


def prediction_powered(grades: Sequence[float], labels: Sequence[tuple[float, float]]) -> Estimate:
    """The mean of people's scores, from the grader's on all samples and people's on a uniform random part.

    theta = mean(j) + mean over the labelled of (h - j), Var = s_j^2 / N + s_{h-j}^2 / n (Angelopoulos et al. 2023,
    Science 382:669). Works on scores and on paired differences, and needs no sensitivity.

    Args:
        grades: the grader's score of every sample.
        labels: (human, grader) of the labelled ones.

    Raises:
        ValueError: fewer than two grades or labels.
    """
    if len(grades) < 2 or len(labels) < 2:
        raise ValueError(f"{len(grades)} grades and {len(labels)} labels are too few; two of each are needed")
    errors = [human - grade for human, grade in labels]
    value = fmean(grades) + fmean(errors)
    half = Z95 * math.sqrt(variance(grades) / len(grades) + variance(errors) / len(errors))
    return Estimate(value, value - half, value + half)


def inverse_weighted(samples: Sequence[tuple[float, float | None, float]]) -> Estimate:
    """The same where labels were routed: samples had different chances of being shown to a person.

    theta = 1/N sum of j_i + (xi_i / pi_i) (h_i - j_i) (Horvitz and Thompson 1952, J. Am. Stat. Assoc. 47:663, on the
    grader's errors), with the variance of that mean.

    Args:
        samples: (grade, human score or None, chance of a label) of every sample.

    Raises:
        ValueError: a chance below 0.05 or above 1, or fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"{len(samples)} samples are too few; two are needed")
    low = min(chance for _, _, chance in samples)
    if low < LEAST_CHANCE or max(chance for _, _, chance in samples) > 1:
        raise ValueError(f"every sample needs a chance of a label of {LEAST_CHANCE} to 1; one has {low}")
    terms = [grade if human is None else grade + (human - grade) / chance for grade, human, chance in samples]
    value, half = fmean(terms), Z95 * math.sqrt(variance(terms) / len(terms))
    return Estimate(value, value - half, value + half)


def calibration(samples: Sequence[tuple[float, float | None, float]]) -> dict[str, Estimate]:
    """Everything above about one grader, by name. Scores of 0.5 and more count as right where a kind is needed.

    The corrected mean is prediction-powered where every answer had the same chance of a label, and weighted by the
    chances where they were routed.

    Args:
        samples: (grade, human score or None, chance of a label) of every answer.

    Raises:
        ValueError: too few labels, labels of one kind only, or a chance that is too small.
    """
    labelled = [(human, grade) for grade, human, _ in samples if human is not None]
    found = agreement([grade >= 0.5 for _, grade in labelled], [human >= 0.5 for human, _ in labelled])
    is_routed = len({chance for _, _, chance in samples}) > 1
    grades = [grade for grade, _, _ in samples]
    half = Z95 * math.sqrt(variance(grades) / len(grades))
    raw = Estimate(fmean(grades), fmean(grades) - half, fmean(grades) + half)
    return {
        "sensitivity": found.sensitivity,
        "specificity": found.specificity,
        "kappa": found.kappa,
        "mean of the grader": raw,
        "corrected mean": inverse_weighted(samples) if is_routed else prediction_powered(grades, labelled),
    }
