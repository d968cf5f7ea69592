"""Which answers people see, in which order, and that whoever stops early leaves an unbiased calibration."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from modelops_dagster.domain.gauntlet.admission import Judged, calibrate
from modelops_dagster.domain.gauntlet.grading import Admission, Settled, answer_uid
from modelops_dagster.domain.labels import (
    Answer,
    Label,
    Reason,
    Task,
    drawn,
    last_words,
    pending,
    people_say,
    reason_for,
)

START = datetime(2026, 1, 1, tzinfo=UTC)


def task(number: int, reason: Reason = "audit", arm: str = "candidate") -> Task:
    about = {"run_id": "r", "repo_id": "o/m", "commit_hash": "c", "lane": "raw", "endpoint": "e", "suite": "writing"}
    uid = answer_uid(f"i{number}", arm)
    return Task(
        answer=Answer(
            **about, arm=arm, item_uid=f"i{number}", sample_id=f"s{number}", category="summary/x", answer_uid=uid,
            text=f"text {number}", reason=reason,
        )
    )  # fmt: skip


def label(about: Task, value: float | None, author: str = "ana", minute: int = 0) -> Label:
    return Label(
        label_id=f"{author}{minute}",
        kind=about.kind,
        answer_uid=about.answer.answer_uid,
        value=value,
        author=author,
        labelled_at=START + timedelta(minutes=minute),
    )


PASS, FAIL, TURNS, NONE = Settled(True, 0, 1), Settled(False, 0, 1), Settled(False, 1, 1), Settled(None, 0, 0)


@pytest.mark.parametrize(
    ("verdicts", "incumbents", "reason"),
    [
        ([PASS], [], "audit"),
        ([PASS, FAIL], [], "split"),
        ([PASS, TURNS], [], "split"),
        ([FAIL, TURNS], [], "flip"),
        ([PASS, NONE], [], "audit"),
        ([PASS], [FAIL], "differs"),
        ([PASS], [PASS], "audit"),
        ([PASS], [NONE], "audit"),
        ([TURNS], [PASS], "flip"),
        ([], [], "audit"),
    ],
)
def test_why_a_person_is_asked(verdicts: list[Settled], incumbents: list[Settled], reason: str):
    assert reason_for(verdicts, incumbents) == reason


def test_reasons_take_turns_until_they_run_out():
    reasons: list[Reason] = ["audit"] * 6 + ["flip"] * 2 + ["split"]
    order = drawn([task(i, reason) for i, reason in enumerate(reasons)])
    assert [t.answer.reason for t in order] == ["split", "flip", "audit", "flip", *["audit"] * 5]
    assert drawn([task(1), task(1)]) == [task(1)]


def test_the_order_follows_from_the_answers_and_from_nothing_else():
    tasks = [task(i) for i in range(200)]
    order = drawn(tasks)
    assert order == drawn(tasks[::-1]) != tasks
    numbers = [int(t.answer.sample_id[1:]) for t in order]
    assert abs(np.corrcoef(numbers, range(200))[0, 1]) < 0.2


def test_every_tenth_task_is_everybodys():
    tasks = [task(i) for i in range(2000)]
    shared = [t for t in tasks if t.is_shared]
    assert 150 < len(shared) < 250
    own = next(t for t in tasks if not t.is_shared)
    labels = [label(own, 1.0), label(shared[0], 1.0)]
    assert pending([own, shared[0]], labels, "ana") == []
    assert pending([own, shared[0]], labels, "bo") == [shared[0]]


def test_half_of_all_pairs_are_swapped_and_the_names_say_nothing():
    pairs = [Task(answer=task(i).answer, other=task(i, arm="incumbent").answer) for i in range(400)]
    swapped = sum(t.sides[0].arm == "incumbent" for t in pairs)
    assert 160 < swapped < 240
    assert Counter(t.value("left") for t in pairs) == {1.0: 400 - swapped, 0.0: swapped}


def test_the_last_word_of_each_person_counts_and_silence_does_not():
    one, two = task(1), task(2)
    said = [label(one, 1.0), label(one, 0.0, minute=5), label(one, 1.0, "bo"), label(two, None)]
    assert last_words(said) == {(one.answer.answer_uid, None): [0.0, 1.0]}
    assert people_say(said[::-1]) == {(one.answer.answer_uid, None): 0.5}
    assert people_say([*said, label(one, None, "bo", minute=9)]) == {(one.answer.answer_uid, None): 0.0}


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_whoever_stops_early_leaves_an_unbiased_calibration(share: float):
    rng = np.random.default_rng(3)
    hits = []
    for times in range(150):
        good = rng.random(300) < 0.65
        verdicts = np.where(good, rng.random(300) < 0.9, rng.random(300) > 0.75)
        # what is routed is harder: a verdict that turns is wrong far more often
        turns = rng.random(300) < np.where(good == verdicts, 0.08, 0.5)
        tasks = [task(1000 * times + i, "flip" if turn else "audit") for i, turn in enumerate(turns)]
        seen = {t.uid for t in drawn(tasks)[: round(share * 300)]}
        judged = [
            Judged(bool(v), float(g) if t.uid in seen else None, t.answer.reason)
            for v, g, t in zip(verdicts, good, tasks, strict=True)
        ]
        corrected = calibrate("g", "summary", judged, Admission()).corrected
        assert corrected is not None
        hits.append(corrected.low <= 0.65 <= corrected.high)
    assert np.mean(hits) >= 0.9
