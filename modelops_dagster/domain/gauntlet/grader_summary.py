"""What graders said of a suite's answers, beside each other: shown, whether or not it counts."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from modelops_dagster.domain.gauntlet.grading import Judgement, Settled, settle
from modelops_dagster.domain.values import Value

ByGrader = Mapping[str, Sequence[Judgement]]
"""The calls about one answer, by grader uid."""


class GraderSummary(Value):
    """One grader in one category group."""

    grader: str = Field(description="uid")
    category: str
    counts: bool = Field(description="admitted: its verdicts are the scores")
    n: int = Field(description="answers with a verdict")
    passed: float | None = Field(description="share of those that pass; None without a verdict")
    no_verdict: int = Field(description="answers without a valid reply in each order")
    flip_rate: float | None = Field(description="share of verdicts that turn with the order of the scale")
    agrees: float | None = Field(description="share of the answers both judged that the first grader sees alike")


def summarized(
    answers: Sequence[tuple[str, ByGrader]], scoring: Mapping[str, str], order: Sequence[str]
) -> tuple[GraderSummary, ...]:
    """One line per grader and category, graders as in the file.

    Args:
        answers: (category group, calls by grader) of every answer that was judged.
        scoring: by category group, the uid of the grader whose verdicts count.
        order: the graders' uids; the first is the one others are held against.
    """
    out = []
    for category in sorted({category for category, _ in answers}):
        settled = [{uid: settle(calls) for uid, calls in by.items()} for group, by in answers if group == category]
        out += [_line(category, uid, settled, scoring.get(category) == uid, order[0]) for uid in order]
    return tuple(out)


def _line(category: str, uid: str, settled: Sequence[Mapping[str, Settled]], counts: bool, first: str) -> GraderSummary:
    mine = [by[uid] for by in settled if uid in by]
    verdicts = [one.verdict for one in mine if one.verdict is not None]
    compared = sum(one.compared for one in mine)
    pairs = [(by[first].verdict, by[uid].verdict) for by in settled if first in by and uid in by]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return GraderSummary(
        grader=uid,
        category=category,
        counts=counts,
        n=len(verdicts),
        passed=sum(verdicts) / len(verdicts) if verdicts else None,
        no_verdict=len(mine) - len(verdicts),
        flip_rate=sum(one.flips for one in mine) / compared if compared else None,
        agrees=sum(a == b for a, b in both) / len(both) if both and uid != first else None,
    )
