"""A revision's numbers beside those of the revision before it: what changed, described and not judged."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field

from modelops_dagster.domain.summary import TableRow, number
from modelops_dagster.domain.values import Value


class Score(Value):
    """One metric of one evaluation of one revision, as the score history holds it."""

    commit_hash: str
    engine: str = Field(description="name and version")
    suite: str
    instrument: str = Field(description="digest of everything that may change a score but the model")
    metric: str
    value: float | None
    unit: str = ""
    evaluated_at: datetime


class Change(Value):
    """One metric then and now."""

    suite: str
    metric: str
    before: float | None
    now: float | None
    difference: float | None = Field(description="now - before; None when one of them is missing")
    unit: str = ""


class Comparison(Value):
    """A revision and the one that was evaluated last before it, in the same lane."""

    commit_hash: str
    previous_commit: str
    changes: tuple[Change, ...] = Field(description="metrics that both have on the same instrument")
    refused: tuple[str, ...] = Field(default=(), description="suites that are not compared, each with the reason")
    note: str = Field(default="", description="what besides the model differs; empty when nothing does")


def compare_with_previous(scores: Sequence[Score], commit_hash: str) -> Comparison | None:
    """Compare a revision's latest evaluation with the latest of the revision before it.

    Numbers of two instruments are never put side by side: a suite whose samples, scorers or settings changed in between
    is refused, and so is one that ran on only one of the two.

    Args:
        scores: of one model in one lane, any revisions, any number of evaluations.
        commit_hash: the revision to describe.

    Returns:
        None when the revision has no scores, or none was evaluated before it.
    """
    now = _latest([s for s in scores if s.commit_hash == commit_hash])
    if not now:
        return None
    at = max(s.evaluated_at for s in now.values())
    earlier = [s for s in scores if s.commit_hash != commit_hash and s.evaluated_at < at]
    if not earlier:
        return None
    previous = max(earlier, key=lambda s: (s.evaluated_at, s.commit_hash)).commit_hash
    before = _latest([s for s in earlier if s.commit_hash == previous])
    refused = _refusals(before, now)
    keys = [k for k in dict.fromkeys([*now, *before]) if k[0] not in refused]
    return Comparison(
        commit_hash=commit_hash,
        previous_commit=previous,
        changes=tuple(_change(key, before.get(key), now.get(key)) for key in sorted(keys)),
        refused=tuple(f"{suite}: {reason}" for suite, reason in sorted(refused.items())),
        note=_note(before, now),
    )


def comparison_table(comparison: Comparison) -> list[TableRow]:
    """One row per metric."""
    return [
        {
            "metric": f"{c.suite}.{c.metric}",
            "before": number(c.before, c.unit),
            "now": number(c.now, c.unit),
            "change": None if c.difference is None else _signed(c.difference, c.unit),
        }
        for c in comparison.changes
    ]


Key = tuple[str, str]


def _latest(scores: Sequence[Score]) -> dict[Key, Score]:
    """(suite, metric) -> its score in the suite's latest evaluation; an older one lends no metric to it."""
    last: dict[str, datetime] = {}
    for score in scores:
        last[score.suite] = max(score.evaluated_at, last.get(score.suite, score.evaluated_at))
    return {(s.suite, s.metric): s for s in scores if s.evaluated_at == last[s.suite]}


def _refusals(before: dict[Key, Score], now: dict[Key, Score]) -> dict[str, str]:
    """Suite -> why its numbers are not put side by side."""
    then = {s.suite: s.instrument for s in before.values()}
    today = {s.suite: s.instrument for s in now.values()}
    refused = dict.fromkeys(today.keys() - then.keys(), "it was not run on the previous revision")
    refused |= dict.fromkeys(then.keys() - today.keys(), "it was not run on this revision")
    changed = {suite for suite in today.keys() & then.keys() if today[suite] != then[suite]}
    why = "its instrument changed in between, so the numbers do not measure the same; run it on both revisions"
    return refused | dict.fromkeys(changed, why)


def _change(key: Key, before: Score | None, now: Score | None) -> Change:
    values = before.value if before else None, now.value if now else None
    either = now or before
    return Change(
        suite=key[0],
        metric=key[1],
        before=values[0],
        now=values[1],
        difference=values[1] - values[0] if values[0] is not None and values[1] is not None else None,
        unit=either.unit if either else "",
    )


def _note(before: dict[Key, Score], now: dict[Key, Score]) -> str:
    engines = [sorted({s.engine for s in of.values()}) for of in (before, now)]
    if engines[0] == engines[1]:
        return ""
    return f"The engine differs as well: {', '.join(engines[0])} before, {', '.join(engines[1])} now."


def _signed(difference: float, unit: str) -> str | None:
    shown = number(difference, unit)
    return f"+{shown}" if difference > 0 else shown
