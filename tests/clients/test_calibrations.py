"""From advisory to admitted to a decision that replays: graders, people and verdicts on one score store."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.calibrations import calibrations
from modelops_dagster.clients.labels import Graded
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.policies import MarginRule
from modelops_dagster.domain.verdicts.label_plan import admission_needs, needs_of_hold, waiting_for_labels
from tests.clients.calibrating import POLICY, RULE, SUITE, decided, judging, label, run, run_again_labelled
from tests.clients.grading_parts import grader, number_in
from tests.fakes.grader_model import GraderModel

GROUPS = {"writing": ("summary",)}


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def test_labels_turn_advice_into_scores_and_scores_into_a_decision_that_replays(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        g = grader(judge_server)
        first = run(store, g, "r1", tmp_path)
        held = decided(store, first)
        (plan,) = needs_of_hold(held, GROUPS, calibrations(store, Graded([SUITE]), RULE), RULE)
        label(store, 0.5)
        (half,) = calibrations(store, Graded([SUITE]), RULE)
        label(store, 1.0)
        (whole,) = calibrations(store, Graded([SUITE]), RULE)
        second = run(store, g, "r2", tmp_path)
    assert (first.n_samples, held.outcome) == (0, "hold")
    assert plan.labels == 40 and "would admit" in plan.said
    assert (half.labels, half.answers, half.why) == (30, 60, "30 of 40 labels are there")
    assert whole.admitted and whole.labels == 60 and whole.flip_rate == 0.0
    assert (whole.sensitivity.value, whole.specificity.value) == (pytest.approx(29 / 30), pytest.approx(29 / 30))
    assert whole.corrected.value == pytest.approx(0.5)
    assert second.n_samples == 60 and second.instrument != first.instrument
    corrected = second.metric("corrected/summary")
    assert corrected.value == pytest.approx(0.5, abs=0.01) and corrected.ci_low < 0.4 < corrected.ci_high
    landed = "select count(*) from scores where run_id = 'r2' and metric = 'corrected/summary' and ci_low is not null"
    assert store.query(landed)[1] == [(1,)]
    verdict = decided(store, second)
    _, again, differing = replay(store, verdict.verdict_id)
    assert (differing, again.verdict_id) == ([], verdict.verdict_id)
    assert verdict.evidence[0].calibrations == (whole,)


def test_more_labels_later_do_not_change_a_stored_decision(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        report = run_again_labelled(store, grader(judge_server), 0.8, tmp_path)
    verdict = decided(store, report)
    label(store, 1.0)
    _, _, differing = replay(store, verdict.verdict_id)
    assert differing == []


def test_a_hold_on_a_corrected_share_says_whether_labels_would_settle_it(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        report = run_again_labelled(store, grader(judge_server), 0.8, tmp_path)
    held = decided(store, report)
    assert held.outcome == "hold"
    (need,) = needs_of_hold(held, GROUPS, report.calibrations, RULE)
    assert need.labels is None and "asking 60 answers only" in need.said
    assert waiting_for_labels(held).startswith("People's labels may close this hold: ")
    kept = held.model_copy(update={"closes_at": datetime(2026, 11, 27, 9, 30, tzinfo=UTC)})
    assert "may close this hold until 2026-11-27 09:30 UTC: " in waiting_for_labels(kept)
    assert waiting_for_labels(held.model_copy(update={"outcome": "fail"})) == ""
    # were there many more answers, it would be the labels that are missing
    raw = report.metric("accuracy").model_copy(update={"n": 100_000})
    others = tuple(m for m in report.metrics if m.name != "accuracy")
    tight = POLICY | {"criteria": [POLICY["criteria"][0] | {"min": 0.46}]}
    wide = decided(store, report.model_copy(update={"metrics": (*others, raw)}), tight)
    (need,) = needs_of_hold(wide, GROUPS, report.calibrations, RULE)
    assert need.labels and "would settle writing.corrected/summary" in need.said


def test_no_label_admits_a_grader_that_never_gives_a_verdict(store: ScoreStore, tmp_path: Path):
    with GraderModel(silent=lambda answer: True).server().in_thread() as babbler:
        report = run(store, grader(babbler), "r1", tmp_path)
    label(store, 1.0)
    (found,) = calibrations(store, Graded([SUITE]), RULE)
    assert (found.admitted, found.silent, found.answers) == (False, 60, 0)
    (need,) = admission_needs(["summary"], [found], RULE)
    assert need.labels is None
    assert "none of its replies about 60 answers is a verdict; look at them in `judgements`" in need.said
    said = "gave no verdict on any of 60 answers of summary (first: the reply is not one JSON object: Expecting value)."
    assert any(said in note for note in report.notes)


def test_a_run_that_nobody_labelled_does_not_dilute_the_calibration(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        g = grader(judge_server)
        run(store, g, "r1", tmp_path)
        label(store, 1.0)
        (before,) = calibrations(store, Graded([SUITE]), RULE)
        run(store, g, "r2", tmp_path, answer=lambda body: f"good other text {number_in(body)}")
        (after,) = calibrations(store, Graded([SUITE]), RULE)
    assert before == after and after.answers == 60


def test_another_grader_starts_as_advisory(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        run(store, grader(judge_server), "r1", tmp_path)
        label(store, 1.0)
        moved = run(store, grader(judge_server, repeats=2), "r2", tmp_path)
    assert moved.n_samples == 0
    found = {c.grader: (c.admitted, c.why) for c in calibrations(store, Graded([SUITE]), RULE)}
    assert found[grader(judge_server).uid] == (True, "")
    # the same answers, labelled before: it is calibrated as soon as it has judged them
    assert found[grader(judge_server, repeats=2).uid] == (True, "")


def test_a_margin_shrinks_with_what_the_grader_can_see(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        report = run_again_labelled(store, grader(judge_server), 1.0, tmp_path)
    margin = {
        "criteria": [{"suite": "writing", "metric": "accuracy", "min": 0.1, "when": "no_incumbent"}],
        "against_incumbent": [{"suite": "writing", "margin": 0.5}],
    }
    verdict = decided(store, report, POLICY | margin)
    skill = report.calibrations[0].skill.low
    assert verdict.evidence[0].skill == skill < 1
    shrunk = MarginRule.model_validate({"suite": "writing", "margin": 0.5 * skill})
    assert shrunk.text in [criterion.rule for criterion in verdict.criteria]


def test_a_model_does_not_win_by_silencing_its_grader(store: ScoreStore, tmp_path: Path):
    with judging().server().in_thread() as judge_server:
        g = grader(judge_server)
        run(store, g, "r1", tmp_path)
        label(store, 1.0)
    model = judging()
    model.silent = lambda answer: "bad" in answer
    with model.server().in_thread() as silenced:
        g = g.model_copy(update={"url": silenced.url})
        report = run(store, g, "r2", tmp_path)
    assert report.metric("accuracy").value > 0.95 and report.metric("graded/summary").value == 0.5
    verdict = decided(store, report)
    assert verdict.outcome == "hold"
    assert "the grader gave no verdict on 50.0 % of the answers of writing.summary" in verdict.reason
    assert replay(store, verdict.verdict_id)[2] == []
