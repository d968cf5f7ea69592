"""Holding admitted graders to answers that people labelled, in every run in which their verdicts are to be scores."""

from collections.abc import Mapping, Sequence

from modelops_dagster.clients.gauntlet.asking import Asking, Order, judgement_row
from modelops_dagster.clients.gauntlet.journal import GradingJournal
from modelops_dagster.domain.gauntlet.drift import Anchor, Drift, drift_of
from modelops_dagster.domain.gauntlet.grading import Grader, settle
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.rubrics import rubric_of
from modelops_dagster.domain.gauntlet.suite import Suite

ARM = "anchor"
"""What judgements of anchors land as, so that nobody takes them for judgements of the run's own answers."""


async def judged_again(
    suite: Suite,
    graders: Sequence[Grader],
    scoring: Mapping[str, str],
    anchors: Sequence[Anchor],
    row: Row,
    ends_at: float,
    journal: GradingJournal | None,
) -> tuple[list[Drift], list[Row]]:
    """Ask every grader whose verdicts are scores about its anchors; returns how it stands by them, and its calls.

    Args:
        scoring: by category group, the uid of that grader.
        row: any of the run's rows: whose run the calls land under.
    """
    samples = {s.uid: (s, suite.spec.rubrics[name]) for s in suite.samples if (name := rubric_of(s)) is not None}
    drifts: list[Drift] = []
    landed: list[Row] = []
    for grader in graders:
        mine = [a for a in anchors if a.grader == grader.uid and scoring.get(a.category) == grader.uid]
        mine = [a for a in mine if a.item_uid in samples]
        orders = [Order(_row(anchor, row), *samples[anchor.item_uid]) for anchor in mine]
        replies = await Asking(grader, ends_at, journal).all(orders, lambda n: None) if orders else []
        landed += [judgement_row(o, grader, one) for o, said in zip(orders, replies, strict=True) for one in said]
        judged = [(anchor, settle(said).verdict) for anchor, said in zip(mine, replies, strict=True)]
        for category in sorted({anchor.category for anchor in mine}):
            drifts.append(drift_of(grader.uid, category, [(a, now) for a, now in judged if a.category == category]))
    return drifts, landed


def _row(anchor: Anchor, row: Row) -> Row:
    told = {"arm": ARM, "item_uid": anchor.item_uid, "sample_id": anchor.sample_id, "epoch": 0}
    return {**row, **told, "category": anchor.category, "completion": anchor.answer}
