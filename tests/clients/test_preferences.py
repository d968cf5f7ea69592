"""Pairs: graders in both orders, people on random sides, and neither more than advice."""

from pathlib import Path

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.labels import land_labels, said_by, verdicts
from modelops_dagster.clients.preferences import run_preferences
from tests.clients.gauntlet_parts import endpoint
from tests.clients.grading_parts import by_number, grader, number_in, written
from tests.clients.labelling_parts import Scene, ScoreStore, judged
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer


def compare(tmp_path: Path, model: GraderModel, **spec: object) -> tuple[ScoreStore, tuple[str, ...]]:
    """Twelve questions of one category: even texts of the candidate are good, of the incumbent the first eight."""
    store = ScoreStore(tmp_path / "scores")
    with (
        OpenAIServer(answer=by_number).in_thread() as ours,
        OpenAIServer(
            answer=lambda b: f"{'good' if number_in(b) < 8 else 'bad'} old {number_in(b)}"
        ).in_thread() as theirs,
        model.server().in_thread() as judge,
    ):
        report = run_suite(
            written(12, categories=("summary",)),
            endpoint(ours),
            lane="raw",
            run_id="r1",
            work=tmp_path,
            land=store.land,
            beside=Beside(endpoint(theirs, name="old", digest="sha256:2"), "raw"),
            panel=Panel((grader(judge, pairs=True, **spec),)),
        )
    return store, report.notes


def test_a_grader_compares_both_arms_in_both_orders_and_it_counts_nowhere(tmp_path: Path):
    store, notes = compare(tmp_path, GraderModel(), both_orders=False)
    # won: 8 and 10; lost: 1, 3, 5, 7; alike: the other six
    (found,) = run_preferences(store)
    assert (found.run_id, found.lane, found.found.n, found.found.flip_rate) == ("r1", "raw", 12, 0.0)
    assert found.found.value == (2 + 6 / 2) / 12
    assert found.found.low < found.found.value < found.found.high
    assert found.found.shown in notes
    rows = store.query(
        "select placement, count(*), count(distinct other_uid), count(verdict) from judgements "
        "where other_uid is not null group by placement order by placement"
    )[1]
    assert rows == [("forward", 12, 12, 0), ("reversed", 12, 12, 0)]
    assert store.query("select count(score) from samples")[1] == [(0,)]
    # a verdict about an answer is not made of comparisons
    assert all(one.compared == 0 for by in verdicts(store).values() for one in by.values())
    assert run_preferences(store, "no/model") == []


def test_a_preference_that_turns_with_the_order_is_a_tie(tmp_path: Path):
    store, _ = compare(tmp_path, GraderModel(waver=lambda answer: answer in ("bad text 1", "good text 8")))
    (found,) = run_preferences(store)
    assert found.found.flip_rate == 2 / 12
    assert found.found.value == (1 + 8 / 2) / 12


def test_without_the_option_no_pair_is_asked_about(tmp_path: Path):
    scene = judged(tmp_path, 4)
    assert run_preferences(scene.store) == []


def test_peoples_pairs_say_how_often_the_candidate_is_better(tmp_path: Path):
    scene: Scene = judged(tmp_path, 8)
    pairs = scene.tasks(pairs=True)
    for task in pairs:
        left_is_ours = task.sides[0].arm == "candidate"
        said = "same" if "good" in task.answer.text else "right" if left_is_ours else "left"
        land_labels(scene.store, [(said_by(task, said, "ana"), task.answer)], "page")
    found = {one.found.category: one.found for one in run_preferences(scene.store)}
    assert {(one.judge, one.n, one.value) for one in found.values()} == {("people", 4, 0.5), ("people", 4, 0.0)}
    assert found["reply"].value == 0.0 and found["reply"].flip_rate is None
