"""A grader that was admitted is held to what people said, run by run; one that drifts loses its word for the run."""

from pathlib import Path

import pytest

from modelops_dagster.clients.calibrations import calibrations, open_panel
from modelops_dagster.clients.gauntlet.graders import Known
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.labels import Graded
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.gauntlet.drift import Anchor, Drift, chosen, drift_of
from modelops_dagster.domain.gauntlet.grading import GradersFile
from modelops_dagster.domain.gauntlet.report import SuiteReport
from tests.clients.calibrating import RULE, SUITE, decided, judging, label
from tests.clients.gauntlet_parts import endpoint
from tests.clients.grading_parts import by_number, grader
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer


def run(store: ScoreStore, work: Path, run_id: str, judge: GraderModel, **rule: float) -> SuiteReport:
    """A run whose panel is opened as an installation opens it."""
    with OpenAIServer(answer=by_number).in_thread() as candidate, judge.server().in_thread() as judge_server:
        file = GradersFile(graders=(grader(judge_server).spec,), admission=RULE.model_copy(update=rule))
        known = Known(lambda name: None, lambda alias: None, "http://127.0.0.1:9", lambda route: "")
        panel = open_panel(file, known, store, [SUITE])
        return run_suite(SUITE, endpoint(candidate), lane="raw", run_id=run_id, work=work, land=store.land, panel=panel)


@pytest.fixture
def labelled(tmp_path: Path) -> ScoreStore:
    """A store in which the grader is admitted."""
    store = ScoreStore(tmp_path / "scores")
    run(store, tmp_path, "r1", judging())
    label(store, 1.0)
    return store


def test_a_grader_that_judges_as_before_keeps_its_word(labelled: ScoreStore, tmp_path: Path) -> None:
    before = calibrations(labelled, Graded([SUITE]), RULE)
    report = run(labelled, tmp_path, "r2", judging())
    assert (report.n_samples, report.withdrawn) == (60, ())
    again = (
        "select arm, count(distinct answer_uid), count(*) from judgements where run_id = 'r2' group by all order by 1"
    )
    assert labelled.query(again)[1] == [("anchor", 20, 40), (None, 60, 120)]
    assert calibrations(labelled, Graded([SUITE]), RULE) == before


def test_a_grader_that_drifted_scores_nothing_and_the_verdict_says_why(labelled: ScoreStore, tmp_path: Path) -> None:
    report = run(labelled, tmp_path, "r2", GraderModel(lambda answer: True))
    (why,) = report.withdrawn
    assert why.startswith("the grader strict-")
    assert "has drifted in summary: of 20 labelled answers it now gets 10 wrong that it got right" in why
    assert why.endswith("and gets 1 right that it got wrong")
    assert report.n_samples == 0
    assert any("Its admission does not hold in this run" in note for note in report.notes)
    held = decided(labelled, report)
    assert held.outcome == "hold"
    assert "has drifted in summary" in held.reason
    assert "name another grader" in held.reason
    _, again, differing = replay(labelled, held.verdict_id)
    assert (again.outcome, again.verdict_id, differing) == ("hold", held.verdict_id, [])


@pytest.mark.parametrize(("rule", "calls"), [({"drift": 0.6}, 40), ({"anchors": 0}, 0)])
def test_the_bound_and_the_number_of_anchors_are_the_files(
    labelled: ScoreStore, tmp_path: Path, rule: dict[str, float], calls: int
) -> None:
    report = run(labelled, tmp_path, "r2", GraderModel(lambda answer: True), **rule)
    assert (report.withdrawn, report.n_samples) == ((), 60)
    assert labelled.query("select count(*) from judgements where arm = 'anchor'")[1] == [(calls,)]


def _anchor(uid: str, good: bool, then: bool) -> Anchor:
    return Anchor(
        grader="g", category="c", item_uid=f"i{uid}", sample_id=uid, answer_uid=uid, answer="a", good=good, then=then
    )


def test_anchors_are_the_same_every_time_and_of_both_kinds() -> None:
    every = [_anchor(f"{n:02}", n % 4 == 0, True) for n in range(40)]
    picked = chosen(every, ["i39"], 10)
    assert picked == chosen(every[::-1], ["i39"], 10)
    assert sum(a.good for a in picked) == 5
    assert "39" in [a.sample_id for a in picked]
    assert chosen([a for a in every if a.good], [], 3) == [every[0], every[4], every[8]]


def test_drift_is_what_it_newly_gets_wrong_less_what_it_newly_gets_right() -> None:
    right, wrong = _anchor("r", True, True), _anchor("w", False, True)
    judged = [(right, False)] * 3 + [(right, True)] * 5 + [(wrong, False)] + [(wrong, True)] + [(right, None)]
    drift = drift_of("g", "c", judged)
    assert drift == Drift(grader="g", category="c", anchors=10, lost=3, gained=1)
    assert drift.is_beyond(0.19) and not drift.is_beyond(0.2)
    assert not drift_of("g", "c", [(right, None)]).is_beyond(0.0)
