"""The graders at work: every one judges every answer, and the verdict of the one that is admitted is the score."""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient, RetryBudget
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.grader_summary import GraderSummary, summarized
from modelops_dagster.domain.gauntlet.grading import (
    MOST_RAW,
    Grader,
    Judgement,
    Placement,
    answer_of,
    answer_uid,
    grading_messages,
    read_reply,
    settle,
)
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.rubrics import Rubric, rubric_of
from modelops_dagster.domain.gauntlet.samples import Sample, canonical
from modelops_dagster.domain.gauntlet.suite import Suite

GIVE_UP_AFTER = 8  # requests in a row that fail: the grader is not there
LEAST_RETRIES = 20
MOST_REASON = 500
COPIED = (
    "run_id", "repo_id", "commit_hash", "lane", "endpoint", "suite", "instrument", "arm", "item_uid", "sample_id",
    "category", "epoch",
)  # fmt: skip
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Graded:
    """What became of rows: every one again, scored where a grader is admitted; and the rows of `judgements`."""

    rows: list[Row]
    judgements: list[Row] = field(default_factory=list)
    summaries: tuple[GraderSummary, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"graders": self.summaries, "calibrations": self.calibrations, "notes": self.notes}


@dataclass(frozen=True)
class Panel:
    """The graders that can be asked, and what each is admitted for.

    `calibrations` are of any graders; one that is not admitted is as good as none. `notes` are sentences about graders
    that cannot be asked.
    """

    graders: tuple[Grader, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    notes: tuple[str, ...] = ()

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
        self, suite: Suite, rows: Sequence[Row], judged: Sequence[Endpoint], progress: Progress | None = None
    ) -> Graded:
        """Let every grader that may judge the ungraded answers among `rows`, which may be of both arms.

        An answer of a category without an admitted grader stays ungraded; so does one that the grader gave no verdict
        on. An empty answer is shown to nobody: where a grader is admitted, it is wrong.
        """
        waiting = [row for row in rows if row["outcome_class"] == "ungraded"]
        if not waiting:
            return Graded(list(rows))
        able, notes = self.able(judged)
        scoring = self.scoring(suite, judged)
        samples = {s.uid: s for s in suite.samples if rubric_of(s)}
        orders = [
            Order(row, samples[row["item_uid"]], suite.spec.rubrics[rubric_of(samples[row["item_uid"]]) or ""])
            for row in waiting
            if answer_of(row["completion"])
        ]
        tell = progress or (lambda done, total, text: None)
        total = len(orders) * sum(len(g.spec.placements) * g.spec.repeats for g in able)
        found: dict[int, dict[str, list[Judgement]]] = defaultdict(dict)
        landed: list[Row] = []
        for grader in able:
            before = len(landed)
            replies = await Asking(grader).all(orders, lambda n, b=before: tell(b + n, total, "graded"))  # type: ignore[misc]
            for order, judgements in zip(orders, replies, strict=True):
                found[id(order.row)][grader.uid] = judgements
                landed += [judgement_row(order.row, grader, one) for one in judgements]
        scored = [_scored(row, found[id(row)], scoring) if row["outcome_class"] == "ungraded" else row for row in rows]
        said = [(_group(order.row), found[id(order.row)]) for order in orders]
        shown = summarized(said, scoring, [g.uid for g in able]) if able else ()
        return Graded(
            scored,
            landed,
            shown,
            self.calibrations_of(scoring),
            (*self.notes, *notes, *_counting_nowhere(scored, scoring, bool(able))),
        )


@dataclass(frozen=True)
class Order:
    """One answer to be judged."""

    row: Row
    sample: Sample
    rubric: Rubric


class Asking:
    """One grader and its connection pool, for the answers of one suite."""

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self._failed_in_a_row = 0
        self._given_up = ""

    async def all(self, orders: Sequence[Order], told: Callable[[int], None]) -> list[list[Judgement]]:
        """The grader's calls about each answer: every repeat in every order of the scale."""
        spec = self.grader.spec
        todo = [
            (o, placement, repeat) for o in orders for repeat in range(spec.repeats) for placement in spec.placements
        ]
        out: dict[int, Judgement] = {}
        client = InferenceClient(
            self.grader.url,
            concurrency=spec.concurrency,
            attempt_timeout_s=spec.attempt_timeout_s,
            budget=RetryBudget(max(LEAST_RETRIES, len(todo))),
            api_key=os.environ.get(spec.key_env) if spec.key_env else None,
        )
        queue = iter(enumerate(todo))

        async def work() -> None:
            for number, (order, placement, repeat) in queue:
                if self._given_up:
                    return
                out[number] = await self._one(client, order, placement, repeat)
                told(len(out))

        try:
            async with client, asyncio.timeout(spec.deadline_s), asyncio.TaskGroup() as group:
                for _ in range(min(spec.concurrency, len(todo))):
                    group.create_task(work())
        except TimeoutError:
            self._given_up = f"its deadline of {spec.deadline_s:g} s passed"
        each = spec.repeats * len(spec.placements)
        whole = [out.get(i) or self._not_asked(placement, repeat) for i, (_, placement, repeat) in enumerate(todo)]
        return [whole[i * each : (i + 1) * each] for i in range(len(orders))]

    def _not_asked(self, placement: Placement, repeat: int) -> Judgement:
        why = f"not asked: {self._given_up}"
        return Judgement(
            grader=self.grader.uid, placement=placement, repeat=repeat, reason=why, status="not_asked", attempts=0
        )

    async def _one(self, client: InferenceClient, order: Order, placement: Placement, repeat: int) -> Judgement:
        """One call; a reply that breaks the contract is asked for again, with another seed."""
        spec, judged = self.grader.spec, order.row["completion"]
        messages = grading_messages(order.sample, order.rubric, answer_of(judged), placement)
        body = {
            "model": self.grader.model,
            "messages": messages,
            "max_tokens": spec.max_tokens,
            "temperature": spec.temperature,
        }
        seen: dict[str, Any] = {"latency_ms": 0.0, "tokens_in": 0, "tokens_out": 0}
        whose = {"grader": self.grader.uid, "placement": placement, "repeat": repeat}
        status, why, raw, attempt = "", "", "", 0
        for attempt in range(1, spec.invalid_retries + 2):
            got = await client.complete({**body, "seed": repeat * (spec.invalid_retries + 1) + attempt})
            seen["latency_ms"] += got.e2el_ms or 0.0
            seen["tokens_in"] += got.tokens_in or 0
            seen["tokens_out"] += got.tokens_out or 0
            if got.error is not None:
                self._failed(got.error, got.error_detail)
                status, why = got.error, got.error_detail
                break
            self._failed_in_a_row, raw = 0, got.text[:MOST_RAW]
            try:
                points, reason = read_reply(got.text, order.rubric)
            except ValueError as error:
                status, why = "malformed", str(error)
                continue
            verdict = order.rubric.passes(points)
            reason = reason[:MOST_REASON]
            return Judgement(**whose, points=points, verdict=verdict, reason=reason, raw=raw, attempts=attempt, **seen)
        return Judgement(**whose, status=status, reason=why[:MOST_REASON], raw=raw, attempts=attempt, **seen)

    def _failed(self, error: str, detail: str) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP_AFTER or error in ("unauthorized", "not_found"):
            self._given_up = f"it answers {error}: {detail}".rstrip(": ")[:MOST_REASON]


def judgement_row(row: Row, grader: Grader, one: Judgement) -> Row:
    """The `judgements` row of one call about the answer in a sample row."""
    return {
        **{name: row.get(name) for name in COPIED},
        "answer_uid": answer_uid(row["item_uid"], answer_of(row["completion"])),
        "grader_model": grader.model,
        "prompt_version": grader.spec.prompt,
        **one.model_dump(exclude={"points", "verdict"}),
        "points": canonical(dict(one.points)) if one.points is not None else None,
        "verdict": None if one.verdict is None else "pass" if one.verdict else "fail",
        "judged_at": datetime.now(UTC),
    }


def _scored(row: Row, found: Mapping[str, Sequence[Judgement]], scoring: Mapping[str, str]) -> Row:
    """The row with the verdict of the grader that is admitted for its category."""
    uid = scoring.get(_group(row))
    if uid is None:
        return {**row, "explanation": "no grader is admitted for its category"}
    if not answer_of(row["completion"]):
        return {**row, "score": 0.0, "outcome_class": "empty", "explanation": "the completion is empty"}
    settled = settle(found[uid])
    if settled.verdict is None:
        why = next(j.reason for j in found[uid] if j.verdict is None)
        return {**row, "explanation": f"{uid} gave no verdict: {why}"}
    said = next(j.reason for j in found[uid] if j.verdict == settled.verdict)
    outcome = "correct" if settled.verdict else "wrong"
    return {**row, "score": float(settled.verdict), "outcome_class": outcome, "explanation": f"{uid}: {said}"}


def _group(row: Row) -> str:
    return str(row["category"]).split("/")[0]


def _counting_nowhere(rows: Sequence[Row], scoring: Mapping[str, str], is_graded: bool) -> tuple[str, ...]:
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
