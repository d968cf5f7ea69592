"""Asking one grader about a suite's answers: both orders, repeats, replies that break the contract, and giving up."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient, RetryBudget
from modelops_dagster.clients.gauntlet.journal import GradingJournal
from modelops_dagster.domain.gauntlet.grading import (
    MOST_RAW,
    Grader,
    GraderSpec,
    Judgement,
    Placement,
    answer_of,
    answer_uid,
    grading_messages,
    read_reply,
)
from modelops_dagster.domain.gauntlet.preferring import pair_messages, read_preference
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.rubrics import Rubric
from modelops_dagster.domain.gauntlet.samples import Sample, canonical

GIVE_UP_AFTER = 8  # requests in a row that fail: the grader is not there
LEAST_RETRIES = 20
MOST_REASON = 500
REPLIED = ("ok", "malformed")
"""How a call stands that the grader replied to, well or not."""
COPIED = (
    "run_id", "repo_id", "commit_hash", "lane", "endpoint", "suite", "instrument", "arm", "item_uid", "sample_id",
    "category", "epoch",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """One answer to be judged."""

    row: Row
    sample: Sample
    rubric: Rubric

    def placements(self, spec: GraderSpec) -> tuple[Placement, ...]:
        """The orders to ask in."""
        return spec.placements

    def messages(self, placement: Placement) -> list[dict[str, str]]:
        """What the grader is told."""
        return grading_messages(self.sample, self.rubric, answer_of(self.row["completion"]), placement)

    def read(self, reply: str, placement: Placement) -> dict[str, Any]:
        """What the grader said, as fields of a judgement.

        Raises:
            ValueError: the reply breaks the contract.
        """
        points, reason = read_reply(reply, self.rubric)
        return {"points": points, "verdict": self.rubric.passes(points), "reason": reason[:MOST_REASON]}

    @property
    def about(self) -> Row:
        """The columns that say which answer it is."""
        row = self.row
        uid = answer_uid(row["item_uid"], answer_of(row["completion"]))
        return {**{name: row.get(name) for name in COPIED}, "answer_uid": uid}


@dataclass(frozen=True)
class PairOrder(Order):
    """A candidate's answer to be judged against the incumbent's: in both orders always, since one favours a side."""

    other: Row

    def placements(self, spec: GraderSpec) -> tuple[Placement, ...]:
        return "forward", "reversed"

    def messages(self, placement: Placement) -> list[dict[str, str]]:
        ours, theirs = (answer_of(row["completion"]) for row in (self.row, self.other))
        return pair_messages(self.sample, self.rubric, ours, theirs, placement)

    def read(self, reply: str, placement: Placement) -> dict[str, Any]:
        value, reason = read_preference(reply, placement)
        return {"preference": value, "reason": reason[:MOST_REASON]}

    @property
    def about(self) -> Row:
        theirs = answer_uid(self.other["item_uid"], answer_of(self.other["completion"]))
        return {**super().about, "other_uid": theirs}


class Asking:
    """One grader and its connection pool, for the answers of one suite, until `ends_at` (`time.monotonic`) at the
    latest."""

    def __init__(self, grader: Grader, ends_at: float = math.inf, journal: GradingJournal | None = None) -> None:
        self.grader = grader
        self._ends_at = ends_at
        self._journal = journal
        self._failed_in_a_row = 0
        self._given_up = ""

    async def all(self, orders: Sequence[Order], told: Callable[[int], None]) -> list[list[Judgement]]:
        """The grader's calls about each order: every repeat in every placement."""
        spec = self.grader.spec
        todo = [
            (o, placement, repeat) for o in orders for repeat in range(spec.repeats) for placement in o.placements(spec)
        ]
        out: dict[int, Judgement] = {}
        client = InferenceClient(
            self.grader.url,
            concurrency=spec.concurrency,
            attempt_timeout_s=spec.attempt_timeout_s,
            budget=RetryBudget(max(LEAST_RETRIES, len(todo))),
            api_key=_key(self.grader),
        )
        seconds = min(spec.deadline_s, max(0.0, self._ends_at - time.monotonic()))
        queue = iter(enumerate(todo))

        async def work() -> None:
            for number, (order, placement, repeat) in queue:
                if self._given_up:
                    return
                out[number] = await self._call(client, order, placement, repeat)
                told(len(out))

        try:
            async with client, asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(min(spec.concurrency, len(todo))):
                    group.create_task(work())
        except TimeoutError:
            self._given_up = f"its deadline of {seconds:.0f} s passed"
        found: dict[int, list[Judgement]] = {id(order): [] for order in orders}
        for number, (order, placement, repeat) in enumerate(todo):
            found[id(order)].append(out.get(number) or self._not_asked(placement, repeat))
        return [found[id(order)] for order in orders]

    def _not_asked(self, placement: Placement, repeat: int) -> Judgement:
        why = f"not asked: {self._given_up}"
        return Judgement(
            grader=self.grader.uid, placement=placement, repeat=repeat, reason=why, status="not_asked", attempts=0
        )

    async def _call(self, client: InferenceClient, order: Order, placement: Placement, repeat: int) -> Judgement:
        """What a run that was killed got by this call, or the call."""
        messages = order.messages(placement)
        if self._journal is None:
            return await self._one(client, order, messages, placement, repeat)
        call = self._journal.call(self.grader.uid, placement, repeat, messages)
        known = self._journal.take(call)
        if known is not None:
            return known
        made = await self._one(client, order, messages, placement, repeat)
        if made.status in REPLIED:
            self._journal.append(call, made)
        return made

    async def _one(
        self,
        client: InferenceClient,
        order: Order,
        messages: list[dict[str, str]],
        placement: Placement,
        repeat: int,
    ) -> Judgement:
        """One call; a reply that breaks the contract is asked for again, with another seed."""
        spec = self.grader.spec
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
                said = order.read(got.text, placement)
            except ValueError as error:
                status, why = "malformed", str(error)
                continue
            return Judgement(**whose, **said, raw=raw, attempts=attempt, **seen)
        return Judgement(**whose, status=status, reason=why[:MOST_REASON], raw=raw, attempts=attempt, **seen)

    def _failed(self, error: str, detail: str) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= GIVE_UP_AFTER or error in ("unauthorized", "not_found"):
            self._given_up = f"it answers {error}: {detail}".rstrip(": ")[:MOST_REASON]


def _key(grader: Grader) -> str | None:
    """What the grader's endpoint asks for: the key that its file names, else the platform's own."""
    if grader.spec.key_env is not None:
        return os.environ.get(grader.spec.key_env)
    return grader.key.get_secret_value() if grader.key is not None else None


def judgement_row(order: Order, grader: Grader, one: Judgement) -> Row:
    """The `judgements` row of one call."""
    return {
        **order.about,
        "grader_model": grader.model,
        "prompt_version": grader.spec.prompt,
        **one.model_dump(exclude={"points", "verdict"}),
        "points": canonical(dict(one.points)) if one.points is not None else None,
        "verdict": None if one.verdict is None else "pass" if one.verdict else "fail",
        "judged_at": datetime.now(UTC),
    }
