"""A real model judges another one's texts: what it says is read or counted as unreadable, and is no score by itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from modelops_dagster.clients.gauntlet.loading import load_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.gauntlet.grading import question_text, read_reply
from modelops_dagster.domain.gauntlet.rubrics import rubric_of
from modelops_dagster.domain.gauntlet.suite import Suite
from tests.assets import graded_lane
from tests.fakes.real_engine import MAX_CONTEXT, NAME, Running, Start, scramble
from tests.fakes.values import a_checkpoint, an_endpoint

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(3600)]
SHIPPED = Path(__file__).resolve().parents[2] / "eval_datasets"
JUDGE = "demo/judge"
POLICY = {
    "name": "default", "version": 1, "description": "A suite that waits for people.",
    "criteria": [{"suite": "writing", "metric": "accuracy", "min": 0.1}],
}  # fmt: skip


class Served(NamedTuple):
    judge: Running
    judged: Running


@pytest.fixture(scope="module")
def served(start: Start, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    damaged = scramble(model, tmp_path_factory.mktemp("damaged") / "model")
    running = [start("transformers", model, served=JUDGE)]
    try:
        running.append(start("transformers", damaged))
        yield Served(*running)
    finally:
        for engine in running:
            engine.stop()


def texts() -> Suite:
    """The shortest question of each kind, of the suite that is shipped: the context is small."""
    suite = load_suite(SHIPPED / "writing.yaml")
    requests = suite.spec.requests.model_copy(update={"concurrency": 1, "attempt_timeout_s": 600})
    of_kind = [[s for s in suite.samples if s.metadata.group == group] for group in suite.groups_to_grade]
    short = [min(samples, key=lambda s: len(question_text(s))) for samples in of_kind]
    brief = [s.model_copy(update={"metadata": s.metadata.model_copy(update={"max_tokens": 32})}) for s in short]
    return Suite(spec=suite.spec.model_copy(update={"requests": requests}), samples=tuple(brief))


def test_a_real_grader_advises_and_scores_nothing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    line = {
        "name": "small", "url": f"{served.judge.url}/v1", "model": JUDGE, "max_tokens": 120, "invalid_retries": 1,
        "concurrency": 1, "attempt_timeout_s": 600,
    }  # fmt: skip
    (tmp_path / "graders.yaml").write_text(json.dumps({"graders": [line]}))
    candidate = an_endpoint(
        name="smol", url=f"{served.judged.url}/v1", served_model_name=NAME, engine="transformers",
        max_context=MAX_CONTEXT, checkpoint=a_checkpoint("demo/SmolLM2", "a" * 40, digest="sha256:a"),
    )  # fmt: skip
    suite = texts()
    result = graded_lane.evaluate(candidate, tmp_path, POLICY, (suite,))
    assert result.success
    store = ScoreStore(tmp_path / "scores")

    _, answers = store.query("select sample_id, completion, outcome_class, score from samples")
    said = {sample_id: completion for sample_id, completion, _, _ in answers}
    assert len(said) == 3 and all(said.values())
    assert {(outcome, score) for *_, outcome, score in answers} == {("ungraded", None)}

    _, calls = store.query(
        "select sample_id, placement, status, verdict, points, raw, attempts, reason from judgements"
    )
    assert {(sample_id, placement) for sample_id, placement, *_ in calls} == {
        (sample_id, placement) for sample_id in said for placement in ("forward", "reversed")
    }
    rubrics = {s.id: suite.spec.rubrics[str(rubric_of(s))] for s in suite.samples}
    for sample_id, placement, status, verdict, points, raw, attempts, reason in calls:
        print(sample_id, placement, status, attempts, verdict, points, reason)
        assert status in ("ok", "malformed")
        if status == "ok":
            found, _ = read_reply(raw, rubrics[sample_id])
            assert (json.loads(points), verdict) == (found, "pass" if rubrics[sample_id].passes(found) else "fail")
        else:
            assert (points, verdict, attempts) == (None, None, 2)
            with pytest.raises(ValueError, match=r"reply|reason|points"):
                read_reply(raw, rubrics[sample_id])

    assert "3 answers of reply, rewrite, summary count nowhere: no grader is admitted for them" in graded_lane.grading(
        result
    )
    assert "the graders' verdicts are advisory there" in graded_lane.grading(result)
    if all(status == "malformed" for _, _, status, *_ in calls):
        assert "gave no verdict on any of 1 answers of summary" in graded_lane.grading(result)
    assert store.query("select count(*) from scores where metric like 'accuracy%' and value is not null")[1] == [(0,)]
    hold = result.output_for_node("raw__verdict")
    assert hold.outcome == "hold"
    assert "writing has nothing that counts: its answers wait for a grader that is admitted" in hold.reason
    assert replay(store, hold.verdict_id)[2] == []
