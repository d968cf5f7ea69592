"""Calibrating a grader against people in one category, and whether its verdicts may be scores there."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

from pydantic import Field

from modelops_dagster.domain.gauntlet.grading import Admission
from modelops_dagster.domain.statistics.graders import (
    LEAST_CHANCE,
    Agreement,
    Estimate,
    agreement,
    inverse_weighted,
    prediction_powered,
    rogan_gladen,
    skill_of,
)
from modelops_dagster.domain.statistics.proportions import wilson
from modelops_dagster.domain.values import Value

MOST_GROWTH = 1024
"""Times the labels there are: what so many more would not settle is not for labels to settle."""


class Interval(Value):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval":
        return cls(value=estimate.value, low=estimate.low, high=estimate.high)


class Judged(NamedTuple):
    """One answer that a grader judged: its verdict, what people said (a mean, or None), and why people were asked."""

    verdict: bool
    human: float | None
    reason: str


class Calibration(Value):
    """A grader against people in one category group. The estimates are None where the labels do not give them."""

    grader: str = Field(description="uid")
    category: str
    answers: int = Field(description="answers it judged, of the runs that have labels")
    labels: int = Field(description="of these, answers that people came to a verdict about")
    sensitivity: Interval | None = None
    specificity: Interval | None = None
    kappa: Interval | None = None
    skill: Interval | None = Field(default=None, description="sensitivity + specificity - 1")
    ac1: float | None = None
    n_right: float = Field(default=0, description="effective number of labels behind the sensitivity")
    n_wrong: float = Field(default=0, description="the same behind the specificity")
    silent: int = Field(default=0, description="answers it was asked about, where it gave a verdict on none of them")
    flip_rate: float | None = None
    mean: float | None = Field(default=None, description="share of the answers that the grader passes")
    corrected: Interval | None = Field(default=None, description="the same, corrected by people's labels")
    admitted: bool = False
    why: str = Field(default="", description="what is lacking, as a clause; empty when it is admitted")

    def correct(self, share: float, n: float) -> Estimate:
        """The share of good answers behind a share that the grader passes, of n answers that nobody labelled.

        Raises:
            ValueError: the grader was not calibrated, or is no better than a coin.
        """
        if self.sensitivity is None or self.specificity is None:
            raise ValueError(f"{self.grader} is not calibrated for {self.category}")
        right = (self.sensitivity.value * self.n_right, self.n_right)
        wrong = (self.specificity.value * self.n_wrong, self.n_wrong)
        return rogan_gladen(share * n, n, right=right, wrong=wrong)


def calibrate(
    grader: str, category: str, judged: Sequence[Judged], rule: Admission, *, flips: int = 0, compared: int = 0
) -> Calibration:
    """Hold a grader's verdicts against people's labels.

    Labels weigh 1 / chance, and an answer's chance of a label is the labelled share of the answers that people were
    asked about for the same reason: inside a reason the order is random, so what is labelled is a simple random sample
    of a stratum (Cochran 1977, Sampling Techniques, ch. 5). The corrected mean is prediction-powered where all chances
    are equal, and weighted by them elsewhere. Where as many people say yes as no there is no verdict to agree with.

    Args:
        judged: every answer, labelled or not.
        flips, compared: verdicts that turned with the order of the scale, of all that were given in both.
    """
    asked = Counter(one.reason for one in judged)
    labelled = [one for one in judged if one.human is not None]
    told = Counter(one.reason for one in labelled)
    decided = [(one, one.human > 0.5) for one in labelled if one.human is not None and one.human != 0.5]
    chance = {reason: told[reason] / n for reason, n in asked.items()}
    known = Calibration(
        grader=grader,
        category=category,
        answers=len(judged),
        labels=len(decided),
        flip_rate=flips / compared if compared else None,
        mean=fmean(one.verdict for one in judged) if judged else None,
    )
    unseen = next((r for r, c in sorted(chance.items()) if c < LEAST_CHANCE), None)
    people = [is_good for _, is_good in decided]
    if unseen is not None or len(set(people)) < 2:
        why = _too_few(people, unseen, asked)
        return known.model_copy(update={"why": why})
    weights = [1 / chance[one.reason] for one, _ in decided]
    found = agreement([one.verdict for one, _ in decided], people, weights)
    grades = [float(one.verdict) for one in judged]
    if len(set(chance.values())) == 1:
        both = [(float(one.human), float(one.verdict)) for one in labelled if one.human is not None]
        corrected = prediction_powered(grades, both)
    else:
        corrected = inverse_weighted([(float(one.verdict), one.human, chance[one.reason]) for one in judged])
    why = lacking(found, known, rule)
    return known.model_copy(
        update={
            "sensitivity": Interval.of(found.sensitivity),
            "specificity": Interval.of(found.specificity),
            "kappa": Interval.of(found.kappa),
            "skill": Interval.of(found.skill),
            "ac1": found.ac1,
            "n_right": found.n_right,
            "n_wrong": found.n_wrong,
            "corrected": Interval.of(corrected),
            "admitted": not why,
            "why": why,
        }
    )


def _too_few(people: Sequence[bool], unseen: str | None, asked: Counter[str]) -> str:
    if not people:
        return "there are no labels"
    if unseen is not None:
        needed = math.ceil(LEAST_CHANCE * asked[unseen])
        return f"of the {asked[unseen]} answers asked about as {unseen} at least {needed} need a label"
    return f"people called all {len(people)} labelled answers {'good' if people[0] else 'bad'}; both kinds are needed"


def lacking(found: Agreement, known: Calibration, rule: Admission) -> str:
    """What keeps a grader from being admitted, as a clause; empty when nothing does."""
    if known.labels < rule.labels:
        return f"{known.labels} of {rule.labels} labels are there"
    for name, seen, bar in (("kappa", found.kappa, rule.kappa), ("skill", found.skill, rule.skill)):
        if seen.low < bar:
            return f"its {name} is {seen.value:.2f}, surely only above {seen.low:.2f}, and has to be above {bar:g}"
    if known.flip_rate is not None and known.flip_rate > rule.flips:
        return f"{known.flip_rate:.0%} of its verdicts turn with the order of the scale, and {rule.flips:.0%} may"
    return ""


def labels_to_admit(found: Calibration, rule: Admission) -> int | None:
    """How many more labels would admit a grader, if they came out as those so far; None when no number would."""
    if found.admitted:
        return 0
    if found.silent:
        return None
    kappa, skill = found.kappa, found.skill
    if kappa is None or skill is None:
        return max(1, rule.labels - found.labels)
    if found.flip_rate is not None and found.flip_rate > rule.flips:
        return None
    if kappa.value <= rule.kappa or skill.value <= rule.skill:
        return None

    def admits(labels: int) -> bool:
        # a large-sample interval shrinks with the root of the labels, Wilson's is worked out
        shrunk = kappa.value - (kappa.value - kappa.low) * math.sqrt(found.labels / labels)
        return labels >= rule.labels and shrunk >= rule.kappa and _grown_skill(found, labels) >= rule.skill

    needed = _fewest(found.labels, admits)
    return None if needed is None else needed - found.labels


def labels_to_settle(found: Calibration, share: float, n: float, bar: float) -> int | None:
    """How many more labels would move a corrected share's interval off a bar; None when labels alone would not.

    The half-width has a part that falls with the labels and one that only more answers make smaller.
    """
    is_above = found.correct(share, n).value > bar

    def settles(labels: int) -> bool:
        at = _grown(found, labels).correct(share, n)
        return at.low > bar if is_above else at.high < bar

    needed = _fewest(found.labels, settles)
    return None if needed is None else needed - found.labels


def _grown(found: Calibration, labels: int) -> Calibration:
    scale = labels / found.labels
    return found.model_copy(update={"n_right": found.n_right * scale, "n_wrong": found.n_wrong * scale})


def _grown_skill(found: Calibration, labels: int) -> float:
    """The lower end of the skill with so many labels."""
    grown, ends = _grown(found, labels), []
    for seen, n in ((grown.sensitivity, grown.n_right), (grown.specificity, grown.n_wrong)):
        if seen is None:
            return -1.0
        ends.append(Estimate(seen.value, *wilson(seen.value * n, n)))
    return skill_of(*ends).low


def _fewest(start: int, holds: Callable[[int], bool]) -> int | None:
    """The fewest labels from `start` up for which something holds that goes on holding; None when none do."""
    low = high = start
    while not holds(high):
        low, high = high, 2 * high
        if high > MOST_GROWTH * start:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
