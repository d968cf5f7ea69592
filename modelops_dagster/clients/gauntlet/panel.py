"""The graders at work: every one judges every answer, and the verdict of the one that is admitted is the score."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelops_dagster.clients.gauntlet.anchoring import judged_again
from modelops_dagster.clients.gauntlet.asking import Asking, Order, PairOrder, judgement_row
from modelops_dagster.clients.gauntlet.journal import GradingJournal
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.drift import Anchor
from modelops_dagster.domain.gauntlet.grader_summary import ByGrader, GraderSummary, summarized
from modelops_dagster.domain.gauntlet.grading import Grader, Judgement, answer_of, settle
from modelops_dagster.domain.gauntlet.preferring import compared, preferences
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.rubrics import rubric_of
from modelops_dagster.domain.gauntlet.suite import Suite

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Graded:
    """What became of rows: every one again, scored where a grader is admitted; and the rows of `judgements`."""

    rows: list[Row]
    judgements: list[Row] = field(default_factory=list)
    summaries: tuple[GraderSummary, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What a report says of it."""
        told = {"graders": self.summaries, "calibrations": self.calibrations, "notes": self.notes}
        return told | {"withdrawn": self.withdrawn}


@dataclass(frozen=True)
class Panel:
    """The graders that can be asked, and what each is admitted for.

    `calibrations` are of any graders; one that is not admitted is as good as none. `notes` are sentences about graders
    that cannot be asked. No grader is asked any more after `ends_at` (`time.monotonic`). A grader whose verdicts are to
    be scores is asked about its `anchors` first, and where it is newly wrong about more than a share of `drift` of them
    its admission is withdrawn for the run.
    """

    graders: tuple[Grader, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()
    ends_at: float = math.inf
    anchors: tuple[Anchor, ...] = ()
    drift: float = 0.10

    def able(self, judged: Sequence[Endpoint]) -> tuple[tuple[Grader, ...], tuple[str, ...]]:
        """The graders that are none of these models, and a sentence about every other one."""
        able, notes = [], []
        for grader in self.graders:
            why = next((why for e in judged if (why := grader.is_itself(e))), "")
            if why:
                notes.append(f"The grader {grader.spec.name} sat out, because {why}.")
            else:
                able.append(grader)
        return tuple(able), tuple(notes)

    def require_others(self, judged: Endpoint) -> None:
        """Refuse to let a model judge itself.

        Raises:
            UserError: one of the graders is that model.
        """
        for grader in self.graders:
            if why := grader.is_itself(judged):
                raise UserError(
                    f"The grader {grader.spec.name} may not judge {judged.served_model_name}, because {why}: "
                    "take it out of graders.yaml, or name another model."
                )

    def scoring(self, suite: Suite, judged: Sequence[Endpoint]) -> dict[str, str]:
        """By category group, the uid of the grader whose verdicts become scores. Part of the instrument."""
        able, _ = self.able(judged)
        admitted = {(c.grader, c.category) for c in self.calibrations if c.admitted}
        first = {g: next((a.uid for a in able if (a.uid, g) in admitted), None) for g in suite.groups_to_grade}
        return {group: uid for group, uid in first.items() if uid is not None}

    def calibrations_of(self, scoring: Mapping[str, str]) -> tuple[Calibration, ...]:
        """The calibrations behind what `scoring` returned."""
        return tuple(c for c in self.calibrations if scoring.get(c.category) == c.grader)

    async def grade(
        self,
        suite: Suite,
        rows: Sequence[Row],
        judged: Sequence[Endpoint],
        progress: Progress | None = None,
        journal: GradingJournal | None = None,
    ) -> Graded:
        """Let every grader that may judge the ungraded answers among `rows`, which may be of both arms.

        With a `journal`, calls that it holds are not made again, and those that are made are kept there.

        An answer of a category without an admitted grader stays ungraded; so does one that the grader gave no verdict
        on. An empty answer is shown to nobody: where a grader is admitted, it is wrong.
        """
        waiting = [row for row in rows if row["outcome_class"] == "ungraded"]
        if not waiting:
            return Graded(list(rows))
        able, notes = self.able(judged)
        scoring = self.scoring(suite, judged)
        drifts, landed = await judged_again(suite, able, scoring, self.anchors, waiting[0], self.ends_at, journal)
        gone = [drift for drift in drifts if drift.is_beyond(self.drift)]
        for drift in gone:
            del scoring[drift.category]
        lost = [f"Its admission does not hold in this run: {drift.said}." for drift in gone]
        orders = _orders(suite, waiting)
        pairs = _pairs(orders)
        work = [(g, [*orders, *(pairs if g.spec.pairs else ())]) for g in able]
        tell = progress or (lambda done, total, text: None)
        total = sum(len(o.placements(g.spec)) * g.spec.repeats for g, asked in work for o in asked)
        found: dict[int, dict[str, list[Judgement]]] = defaultdict(dict)
        told: list[str] = []
        asked_before = len(landed)
        for grader, asked in work:
            before = len(landed) - asked_before
            asking = Asking(grader, self.ends_at, journal)
            replies = await asking.all(asked, lambda n, b=before: tell(b + n, total, "graded"))  # type: ignore[misc]
            for order, judgements in zip(asked, replies, strict=True):
                landed += [judgement_row(order, grader, one) for one in judgements]
                if not isinstance(order, PairOrder):
                    found[id(order.row)][grader.uid] = judgements
            both = [
                (_group(order.row), order.row["cluster"], compared(judgements))
                for order, judgements in zip(asked, replies, strict=True)
                if isinstance(order, PairOrder)
            ]
            told += [preference.shown for preference in preferences(grader.uid, both)]
        scored = [
            graded_row(row, found[id(row)], scoring) if row["outcome_class"] == "ungraded" else row for row in rows
        ]
        said = [(_group(order.row), found[id(order.row)]) for order in orders]
        shown = summarized(said, scoring, [g.uid for g in able]) if able else ()
        return Graded(
            scored,
            landed,
            shown,
            self.calibrations_of(scoring),
            (*self.notes, *notes, *lost, *counting_nowhere(scored, scoring, bool(able)), *_silent(shown, said), *told),
            tuple(drift.said for drift in gone),
        )


def _silent(shown: Sequence[GraderSummary], said: Sequence[tuple[str, ByGrader]]) -> list[str]:
    """A sentence about each grader that judged nothing of what it was asked, with what became of the first call."""
    out = []
    for one in (one for one in shown if one.no_verdict and not one.n):
        calls = [call for group, by in said if group == one.category for call in by.get(one.grader, ())]
        why = next((call.reason for call in calls if call.verdict is None), "it was not asked")
        out.append(f"{one.grader} gave no verdict on any of {one.no_verdict} answers of {one.category} (first: {why}).")
    return out


def _orders(suite: Suite, waiting: Sequence[Row]) -> list[Order]:
    """The answers to show to graders: empty ones are shown to nobody."""
    samples = {s.uid: (s, suite.spec.rubrics[name]) for s in suite.samples if (name := rubric_of(s)) is not None}
    return [Order(row, *samples[row["item_uid"]]) for row in waiting if answer_of(row["completion"])]


def _pairs(orders: Sequence[Order]) -> list[PairOrder]:
    """Each candidate's answer beside the incumbent's to the same question, where they differ."""
    theirs = {(o.row["item_uid"], o.row["epoch"]): o.row for o in orders if o.row.get("arm") == "incumbent"}
    found = []
    for order in orders:
        other = theirs.get((order.row["item_uid"], order.row["epoch"])) if order.row.get("arm") == "candidate" else None
        if other is not None and answer_of(other["completion"]) != answer_of(order.row["completion"]):
            found.append(PairOrder(order.row, order.sample, order.rubric, other))
    return found


def graded_row(row: Row, found: Mapping[str, Sequence[Judgement]], scoring: Mapping[str, str]) -> Row:
    """The row with the verdict of the grader that is admitted for its category."""
    uid = scoring.get(_group(row))
    if uid is None:
        return {**row, "explanation": "no grader is admitted for its category"}
    if not answer_of(row["completion"]):
        return {**row, "score": 0.0, "outcome_class": "empty", "explanation": "the completion is empty"}
    calls = found.get(uid, ())
    settled = settle(calls)
    if settled.verdict is None:
        why = next((j.reason for j in calls if j.verdict is None), "it was not asked")
        return {**row, "explanation": f"{uid} gave no verdict: {why}"}
    said = next(j.reason for j in calls if j.verdict == settled.verdict)
    outcome = "correct" if settled.verdict else "wrong"
    return {**row, "score": float(settled.verdict), "outcome_class": outcome, "explanation": f"{uid}: {said}"}


def _group(row: Row) -> str:
    return str(row["category"]).split("/")[0]


def counting_nowhere(rows: Sequence[Row], scoring: Mapping[str, str], is_graded: bool) -> tuple[str, ...]:
    """A sentence about the answers that stay ungraded."""
    waiting = [row for row in rows if row["outcome_class"] == "ungraded"]
    groups = sorted({_group(row) for row in waiting})
    out = []
    if without := [g for g in groups if g not in scoring]:
        n = sum(_group(row) in without for row in waiting)
        then = "the graders' verdicts are advisory there" if is_graded else "no grader was asked"
        out.append(f"{n} answers of {', '.join(without)} count nowhere: no grader is admitted for them, and {then}.")
    if n := sum(_group(row) in scoring for row in waiting):
        out.append(f"{n} answers count nowhere, because the admitted grader gave no verdict on them.")
    return tuple(out)
