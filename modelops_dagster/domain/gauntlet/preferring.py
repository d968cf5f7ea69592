"""Two answers to one question side by side: what a grader is told, what it may reply, and what it comes to."""

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import Field

from modelops_dagster.domain.gauntlet.grading import (
    INSTRUCTIONS,
    Judgement,
    Placement,
    marked,
    question_text,
    reply_object,
)
from modelops_dagster.domain.gauntlet.metrics import Scoring, mean_interval
from modelops_dagster.domain.gauntlet.rubrics import Rubric
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.values import Value

PEOPLE = "people"
_CHOICES = {"first": 1.0, "second": 0.0, "same": 0.5}


def pair_messages(
    sample: Sample, rubric: Rubric, candidate: str, incumbent: str, placement: Placement
) -> list[dict[str, str]]:
    """What a grader is told about two answers. `reversed` shows the incumbent's first; neither is named."""
    first, second = (candidate, incumbent) if placement == "forward" else (incumbent, candidate)
    parts = [f"{rubric.asks} There are two; say which is better.", marked("What was asked", question_text(sample))]
    if any(sample.targets):
        parts.append(marked("What a good answer contains", "\n".join(sample.targets)))
    parts += [
        marked("The first answer", first),
        marked("The second answer", second),
        "What makes an answer good:\n" + "\n".join(f"- {asks}" for asks in rubric.criteria.values()),
        'Reply with one JSON object and nothing else: {"reason": "<one sentence>", "better": "first", "second" or '
        '"same"}',
    ]
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "\n\n".join(parts)}]


def read_preference(text: str, placement: Placement) -> tuple[float, str]:
    """How much the candidate's answer is preferred (1, 0.5 or 0), and the reason, from a grader's reply.

    Raises:
        ValueError: not one JSON object, or it does not say which.
    """
    found: dict[str, Any] = reply_object(text, {"better", "reason"})
    choice = found.get("better")
    if not isinstance(choice, str) or choice not in _CHOICES:
        raise ValueError(f"better is {json.dumps(choice)}; it has to be one of {', '.join(_CHOICES)}")
    value = _CHOICES[choice]
    return (value if placement == "forward" else 1 - value), str(found.get("reason", "")).strip()


class Compared(NamedTuple):
    """One pair after all calls: the mean preference for the candidate, and how many of the repeats turned."""

    value: float | None
    flips: int
    compared: int


def compared(calls: Sequence[Judgement]) -> Compared:
    """The mean over repeats that have a valid reply in each order; one that turns with the order comes to a tie.

    Every other repeat is left out, since one order alone favours a side.
    """
    wanted = {one.placement for one in calls}
    by_repeat: dict[int, dict[Placement, float]] = {}
    for one in calls:
        if one.preference is not None:
            by_repeat.setdefault(one.repeat, {})[one.placement] = one.preference
    whole = [list(found.values()) for found in by_repeat.values() if set(found) == wanted]
    both = [values for values in whole if len(values) == 2]
    value = fmean(fmean(values) for values in whole) if whole else None
    return Compared(value, sum(a != b for a, b in both), len(both))


class Preference(Value):
    """How often a judge prefers the candidate's answers to the incumbent's, in one category group. Advice only."""

    judge: str = Field(description="a grader's uid, or `people`")
    category: str
    n: int = Field(description="pairs judged")
    value: float = Field(description="share of pairs won, ties half")
    low: float
    high: float
    flip_rate: float | None = Field(default=None, description="share of verdicts that turn with the order")

    @property
    def shown(self) -> str:
        """As a sentence."""
        flips = "" if self.flip_rate is None else f", {self.flip_rate:.0%} turn with the order"
        return (
            f"{self.judge} prefers the candidate's answer in {self.value:.2f} ({self.low:.2f} to {self.high:.2f}) of "
            f"{self.n} pairs of {self.category}{flips}; advice only."
        )


def preference(
    judge: str, category: str, pairs: Sequence[tuple[str, float]], flip_rate: float | None = None
) -> Preference:
    """The mean with its 95 % interval (`metrics.mean_interval`).

    Args:
        pairs: (cluster, preference for the candidate) of every pair; at least one.
    """
    scorings = [Scoring(value, cluster=cluster) for cluster, value in pairs]
    low, high = mean_interval(scorings)
    value = fmean(value for _, value in pairs)
    return Preference(
        judge=judge, category=category, n=len(pairs), value=value, low=low, high=high, flip_rate=flip_rate
    )


def preferences(judge: str, found: Sequence[tuple[str, str, Compared]]) -> list[Preference]:
    """One per category, of the pairs that a grader came to a preference about.

    Args:
        found: (category group, cluster, what its calls came to) of every pair.
    """
    out = []
    for category in sorted({category for category, *_ in found}):
        mine = [(cluster, one) for group, cluster, one in found if group == category]
        pairs = [(cluster, one.value) for cluster, one in mine if one.value is not None]
        turned, both = sum(one.flips for _, one in mine), sum(one.compared for _, one in mine)
        if pairs:
            out.append(preference(judge, category, pairs, turned / both if both else None))
    return out
