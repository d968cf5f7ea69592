"""People's labels: which answers are shown to people, why, in what order, and what their labels come to."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from modelops_dagster.domain.gauntlet.grading import Settled
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.values import Value

Reason = Literal["split", "flip", "differs", "audit"]
REASONS: Mapping[Reason, str] = {
    "split": "the graders disagree",
    "flip": "a verdict turns with the order of the scale",
    "differs": "candidate and incumbent are judged differently",
    "audit": "drawn at random from the rest",
}
Kind = Literal["answer", "pair"]
SAID: Mapping[Kind, Mapping[str, float | None]] = {
    "answer": {"pass": 1.0, "fail": 0.0, "unsure": None},
    "pair": {"left": 1.0, "right": 0.0, "same": 0.5, "unsure": None},
}
SHARED_OF = 10
"""Every tenth answer is shown to everybody who labels, so that people can be compared with each other."""


class Answer(Value):
    """An answer that people may judge, with what graders said of it. People see neither."""

    run_id: str
    repo_id: str
    commit_hash: str
    lane: str
    endpoint: str
    arm: str | None = None
    suite: str
    item_uid: str
    sample_id: str
    category: str
    answer_uid: str
    text: str
    score: float | None = Field(default=None, description="what counts of it; None while it is ungraded")
    reason: Reason = Field(default="audit", description="why a person is asked")

    @property
    def group(self) -> str:
        return self.category.split("/")[0]


class Task(Value):
    """One thing to judge: an answer, or a candidate's answer (`answer`) against the incumbent's (`other`)."""

    answer: Answer
    other: Answer | None = None

    @property
    def kind(self) -> Kind:
        return "answer" if self.other is None else "pair"

    @property
    def uid(self) -> str:
        """Names the task without telling anything about it."""
        other = self.other.answer_uid if self.other else ""
        return hashlib.sha256(f"{self.answer.answer_uid} {other}".encode()).hexdigest()[:32]

    @property
    def sides(self) -> tuple[Answer, ...]:
        """What is shown, left to right: half of all pairs, as their names happen to fall, are swapped."""
        if self.other is None:
            return (self.answer,)
        return (self.other, self.answer) if self._is_swapped else (self.answer, self.other)

    @property
    def _is_swapped(self) -> bool:
        return int(self.uid[-1], 16) % 2 == 1

    def value(self, said: str) -> float | None:
        """What somebody said of it, as a number; of a pair, 1 when the candidate's answer is the better one.

        Raises:
            ValueError: nothing that can be said of such a task.
        """
        known = SAID[self.kind]
        if said not in known:
            raise ValueError(f"{said!r} is not one of {', '.join(known)}")
        value = known[said]
        return 1 - value if value is not None and self.other is not None and self._is_swapped else value

    @property
    def is_shared(self) -> bool:
        """Whether everybody is asked."""
        return int(self.uid[:8], 16) % SHARED_OF == 0


class Label(Value):
    """What one person said of one task, once. Saying something else later adds a label; none is ever changed."""

    label_id: str
    kind: Kind
    answer_uid: str
    other_uid: str | None = Field(default=None, description="of a pair: the incumbent's answer")
    value: float | None = Field(
        description="1: passes, or the first of a pair is better; 0: the opposite; 0.5: alike; None: cannot tell"
    )
    author: str = Field(min_length=1, max_length=120)
    labelled_at: datetime
    seconds: float | None = Field(default=None, ge=0, description="from shown to answered")
    comment: str = Field(default="", max_length=2000)


def label_row(label: Label, answer: Answer, source: str) -> Row:
    """The `labels` row: a label, and the run whose answer it is about."""
    about = answer.model_dump(include={"run_id", "repo_id", "commit_hash", "lane", "endpoint", "suite", "item_uid"})
    named = answer.model_dump(include={"sample_id", "category", "reason"})
    return {**about, **named, **label.model_dump(), "source": source}


def reason_for(verdicts: Sequence[Settled], incumbents: Sequence[Settled] = ()) -> Reason:
    """Why an answer is put before a person.

    Args:
        verdicts: of every grader on this answer.
        incumbents: of the same graders on the other arm's answer to the same question, in the same order.
    """
    said = {one.verdict for one in verdicts if one.verdict is not None}
    if len(said) > 1:
        return "split"
    if any(one.flips for one in verdicts):
        return "flip"
    both = zip(verdicts, incumbents, strict=bool(incumbents)) if incumbents else ()
    differs = any(a.verdict != b.verdict for a, b in both if a.verdict is not None and b.verdict is not None)
    return "differs" if differs else "audit"


def drawn(tasks: Sequence[Task]) -> list[Task]:
    """The order in which tasks are shown.

    Each reason has a random order of its own that follows from the answers alone, and the reasons take turns. So
    whenever somebody stops, what is labelled of a reason is a random part of it: its share is the chance that an answer
    had, and no other weights are needed.
    """
    queues: dict[Reason, list[Task]] = defaultdict(list)
    for task in sorted({t.uid: t for t in tasks}.values(), key=lambda t: t.uid):
        queues[task.answer.reason].append(task)
    turns = [queues[reason] for reason in REASONS if queues[reason]]
    longest = max((len(queue) for queue in turns), default=0)
    return [queue[i] for i in range(longest) for queue in turns if i < len(queue)]


def pending(tasks: Sequence[Task], labels: Sequence[Label], author: str) -> list[Task]:
    """Those a person is still to be asked: neither by them nor, unless it is shared, by anybody else labelled."""
    mine = {key_of(label) for label in labels if label.author == author}
    anybody = {key_of(label) for label in labels}
    return [t for t in tasks if _key(t) not in (mine if t.is_shared else anybody)]


def key_of(label: Label) -> tuple[str, str | None]:
    """What a label is about."""
    return label.answer_uid, label.other_uid


def _key(task: Task) -> tuple[str, str | None]:
    return task.answer.answer_uid, task.other.answer_uid if task.other else None


def last_words(labels: Sequence[Label]) -> dict[tuple[str, str | None], list[float]]:
    """What each person said last, by what it is about. Somebody who cannot tell says nothing."""
    last: dict[tuple[str, str | None], dict[str, Label]] = defaultdict(dict)
    for label in sorted(labels, key=lambda one: (one.labelled_at, one.label_id)):
        last[key_of(label)][label.author] = label
    said = {key: [v.value for v in by.values() if v.value is not None] for key, by in last.items()}
    return {key: values for key, values in said.items() if values}


def people_say(labels: Sequence[Label]) -> dict[tuple[str, str | None], float]:
    """The mean of what people said, by what it is about."""
    return {key: fmean(values) for key, values in last_words(labels).items()}


def label_from_row(row: Mapping[str, Any]) -> Label:
    """The label in a `labels` row."""
    return Label.model_validate({name: row[name] for name in Label.model_fields} | {"comment": row["comment"] or ""})
