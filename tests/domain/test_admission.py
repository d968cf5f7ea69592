"""Calibration by simulation: a grader with known errors is corrected to within its interval; and what admits one."""

import math

import numpy as np
import pytest

from modelops_dagster.domain.gauntlet.admission import Calibration, Judged, calibrate, labels_to_admit, labels_to_settle
from modelops_dagster.domain.gauntlet.aggregates import dataset_metrics
from modelops_dagster.domain.gauntlet.grading import Admission
from modelops_dagster.domain.statistics.graders import agreement
from tests.domain.test_grading import row

TRUE, SENSITIVITY, SPECIFICITY = 0.7, 0.92, 0.8
RULE = Admission(labels=60, kappa=0.4, skill=0.4)


def world(
    rng: np.random.Generator, n: int = 500, audit: float = 0.2, routed: float = 0.8
) -> tuple[float, list[Judged]]:
    """The true share of n answers, and how a grader with those errors judged them.

    A second grader with errors of its own decides which answers are routed to people; they get labels more often.
    """
    good = rng.random(n) < TRUE
    first = np.where(good, rng.random(n) < SENSITIVITY, rng.random(n) > SPECIFICITY)
    second = np.where(good, rng.random(n) < 0.85, rng.random(n) > 0.9)
    judged = []
    for is_good, verdict, other in zip(good, first, second, strict=True):
        reason, chance = ("audit", audit) if verdict == other else ("split", routed)
        judged.append(Judged(bool(verdict), float(is_good) if rng.random() < chance else None, reason))
    return float(good.mean()), judged


def test_a_grader_with_known_errors_is_corrected_to_within_its_interval():
    rng = np.random.default_rng(5)
    hits, raw, routed_alone = [], [], []
    for _ in range(300):
        _, judged = world(rng)
        found = calibrate("g", "summary", judged, RULE)
        assert found.corrected and found.sensitivity and found.specificity
        hits.append(
            [
                found.corrected.low <= TRUE <= found.corrected.high,
                found.sensitivity.low <= SENSITIVITY <= found.sensitivity.high,
                found.specificity.low <= SPECIFICITY <= found.specificity.high,
            ]
        )
        raw.append(found.mean)
        known = [(j.verdict, j.human >= 0.5) for j in judged if j.human is not None]
        routed_alone.append(agreement(*map(list, zip(*known, strict=True))).specificity.value)
    assert (np.mean(hits, axis=0) >= 0.92).all(), np.mean(hits, axis=0)
    # without the weights routed labels would make the grader look worse than it is, and its own mean is off
    assert np.mean(routed_alone) < SPECIFICITY - 0.05
    assert np.mean(raw) == pytest.approx(TRUE * SENSITIVITY + (1 - TRUE) * (1 - SPECIFICITY), abs=0.005)


def test_a_uniform_audit_is_corrected_as_well():
    rng = np.random.default_rng(6)
    found = [calibrate("g", "summary", world(rng, 400, 0.3, 0.3)[1], RULE).corrected for _ in range(200)]
    assert np.mean([f.low <= TRUE <= f.high for f in found if f]) >= 0.92


def test_a_run_that_nobody_labelled_is_corrected_by_what_is_known_of_its_grader():
    rng = np.random.default_rng(7)
    hits = []
    for _ in range(200):
        calibration = calibrate("g", "summary", world(rng)[1], RULE)
        truth, new = 0.5, 200
        good = rng.random(new) < truth
        verdicts = np.where(good, rng.random(new) < SENSITIVITY, rng.random(new) > SPECIFICITY)
        rows = [row(i, "correct" if v else "wrong") for i, v in enumerate(verdicts)]
        (metric,) = [m for m in dataset_metrics((), rows, (calibration,)) if m.name == "corrected/summary"]
        hits.append(metric.ci_low <= truth <= metric.ci_high)
    assert np.mean(hits) >= 0.92


def test_an_empty_answer_is_wrong_whatever_the_grader_is_worth():
    calibration = known(200)
    rows = [row(i, "correct") for i in range(50)] + [{**row(50 + i, "empty"), "score": 0.0} for i in range(50)]
    by_name = {m.name: m for m in dataset_metrics((), rows, (calibration,))}
    assert by_name["corrected/summary"].value == pytest.approx(0.5)
    none = {m.name: m for m in dataset_metrics((), [{**row(0, "empty"), "score": 0.0}], (calibration,))}
    assert none["corrected/summary"].value is None


def known(labels: int, se: float = 0.95, sp: float = 0.9, rule: Admission = RULE, **flips: int) -> Calibration:
    """A calibration whose labels, half good and half bad, come out exactly at these rates."""
    half = labels // 2
    hits, rejections = round(se * half), round(sp * half)
    judged = [Judged(i < hits, 1.0, "audit") for i in range(half)]
    judged += [Judged(i >= rejections, 0.0, "audit") for i in range(half)]
    return calibrate("g", "summary", judged, rule, **flips)


def test_what_admits_and_what_is_lacking():
    strict = Admission()
    assert known(400, rule=strict).admitted
    few = known(80, rule=strict)
    assert not few.admitted and few.why == "80 of 100 labels are there"
    assert "its kappa is 0.60, surely only above" in known(400, 0.8, 0.8, strict).why
    turning = known(400, rule=strict, flips=60, compared=400)
    assert turning.why == "15% of its verdicts turn with the order of the scale, and 10% may"
    assert known(400, rule=strict, flips=40, compared=400).admitted


def test_answers_that_people_are_divided_on_say_nothing_of_the_grader():
    judged = [Judged(True, 1.0, "audit"), Judged(False, 0.0, "audit")] * 20
    divided = [Judged(True, 0.5, "audit"), Judged(False, 0.5, "audit")] * 10
    found = calibrate("g", "summary", [*judged, *divided], RULE)
    assert (found.labels, found.answers, found.kappa.value, found.corrected.value) == (40, 60, 1.0, 0.5)


def test_labels_that_give_no_estimate_are_told():
    def why(judged: list[Judged]) -> str:
        found = calibrate("g", "summary", judged, RULE)
        assert not found.admitted and found.kappa is None
        return found.why

    assert why([Judged(True, None, "audit")] * 5) == "there are no labels"
    assert why([]) == "there are no labels"
    assert "all 5 labelled answers good" in why([Judged(True, 1.0, "audit")] * 5)
    assert "all 5 labelled answers bad" in why([Judged(True, 0.0, "audit")] * 5)
    both = [Judged(True, 1.0, "audit"), Judged(True, 0.0, "audit")]
    assert why([*both, *[Judged(True, None, "flip")] * 30]) == (
        "of the 30 answers asked about as flip at least 2 need a label"
    )


def test_the_skill_of_a_worked_example():
    # 45 of 50 and 40 of 50; Wilson 0.786-0.957 and 0.670-0.888, put together: 0.70 -0.173 +0.105
    found = agreement([True] * 45 + [False] * 5 + [True] * 10 + [False] * 40, [True] * 50 + [False] * 50).skill
    down, up = math.hypot(0.9 - 0.7864, 0.8 - 0.6696), math.hypot(0.9565 - 0.9, 0.8876 - 0.8)
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.7), pytest.approx(0.7 - down, abs=1e-3), pytest.approx(0.7 + up, abs=1e-3),
    )  # fmt: skip


def test_equal_weights_change_nothing_and_double_weights_count_double():
    grader, human = [True] * 30 + [False] * 10 + [True] * 5 + [False] * 15, [True] * 40 + [False] * 20
    assert agreement(grader, human) == agreement(grader, human, [2.0] * 60)
    weighted = agreement(grader, human, [2.0 if g else 1.0 for g in grader])
    assert weighted.sensitivity.value == pytest.approx(60 / 70)
    assert weighted.n_right == pytest.approx(70**2 / (30 * 4 + 10))


@pytest.mark.parametrize("labels", [80, 120, 200])
def test_so_many_more_labels_admit(labels: int):
    rule = Admission(labels=40, kappa=0.8, skill=0.8)
    now = known(labels, rule=rule)
    more = labels_to_admit(now, rule)
    assert more and not now.admitted
    # half of each number is of one kind, and its rate is rounded to whole labels
    assert known(40 * math.ceil((labels + more) / 40), rule=rule).admitted
    assert not known(40 * math.floor(0.9 * (labels + more) / 40), rule=rule).admitted


def test_the_number_of_labels_itself_may_be_what_is_lacking():
    rule = Admission(labels=200, kappa=0.5, skill=0.5)
    assert labels_to_admit(known(80, rule=rule), rule) == 120


def test_no_number_of_labels_admits_a_grader_that_is_not_good_enough():
    assert labels_to_admit(known(200, 0.8, 0.75, Admission()), Admission()) is None
    assert labels_to_admit(known(400, rule=Admission(), flips=60, compared=400), Admission()) is None
    assert labels_to_admit(known(400, rule=Admission()), Admission()) == 0
    assert labels_to_admit(Calibration(grader="g", category="c", answers=9, labels=0), Admission()) == 100


def test_so_many_more_labels_settle_a_share():
    now = known(80)
    share, n, bar = 0.75, 4000, 0.72
    before = now.correct(share, n)
    assert before.low < bar < before.value
    more = labels_to_settle(now, share, n, bar)
    assert more
    scale = (now.labels + more) / now.labels
    grown = now.model_copy(update={"n_right": now.n_right * scale, "n_wrong": now.n_wrong * scale})
    assert grown.correct(share, n).low > bar
    # with forty answers the labels are not what is missing
    assert labels_to_settle(now, share, 40, bar) is None
