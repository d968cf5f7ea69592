"""What graders are told and may reply, how calls become a verdict, and that ungraded answers count nowhere."""

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.gauntlet.aggregates import dataset_metrics
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.grading import (
    Grader,
    GradersFile,
    GraderSpec,
    Judgement,
    answer_uid,
    grading_messages,
    read_reply,
    settle,
)
from modelops_dagster.domain.gauntlet.preferring import compared, pair_messages, read_preference
from modelops_dagster.domain.gauntlet.report import Incumbent
from modelops_dagster.domain.gauntlet.rubrics import Rubric
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import score_completion, scorer_params
from modelops_dagster.domain.policies import MarginRule
from modelops_dagster.domain.verdicts import Arms
from modelops_dagster.domain.verdicts.decision import SuiteEvidence
from modelops_dagster.domain.verdicts.pairing import compare_arms
from modelops_dagster.domain.verdicts.replay import recomputed
from tests.clients.grading_parts import RUBRIC, written

TEXT = Rubric.model_validate(RUBRIC)
SAMPLE = written(1).samples[0]


@pytest.mark.parametrize(
    "reply",
    [
        '{"reason": "fine", "supported": 4, "brief": 3}',
        '```json\n{"supported": 4, "brief": 3, "reason": "fine"}\n```',
        '<think>4, surely {"supported": 1}</think>\n{"supported": 4, "brief": 3, "reason": " fine "}',
    ],
)
def test_a_reply_that_holds(reply: str):
    assert read_reply(reply, TEXT) == ({"supported": 4, "brief": 3}, "fine")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Four.", "not one JSON object"),
        ('Here: {"supported": 4, "brief": 3}', "not one JSON object"),
        ("[4, 3]", "type list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"supported": 4}', "brief is null"),
        ('{"supported": 5, "brief": 3}', "supported is 5; points are 1 to 4"),
        ('{"supported": true, "brief": 3}', "supported is true"),
        ('{"supported": 3.0, "brief": 3}', r"supported is 3\.0"),
        ('{"supported": "4", "brief": 3}', 'supported is "4"'),
        ('{"supported": 4, "brief": 3, "overall": 4}', "'overall', which nobody asked for"),
        ('{"supported": 4, "brief": 3, "reason": 7}', "reason is not a text"),
    ],
)
def test_a_reply_that_breaks_the_contract(reply: str, said: str):
    with pytest.raises(ValueError, match=said):
        read_reply(reply, TEXT)


def test_an_answer_passes_when_every_criterion_does():
    assert TEXT.passes({"supported": 3, "brief": 4})
    assert not TEXT.passes({"supported": 4, "brief": 2})
    with pytest.raises(ValidationError, match="scale has 4 steps"):
        Rubric.model_validate(RUBRIC | {"pass_at": 5})
    with pytest.raises(ValidationError, match="may not be named 'reason'"):
        Rubric.model_validate(RUBRIC | {"criteria": {"reason": "It has one."}})


def test_the_scale_is_shown_both_ways_and_nothing_else_changes():
    forward, back = (grading_messages(SAMPLE, TEXT, "an answer", p)[1]["content"] for p in ("forward", "reversed"))
    assert forward != back and sorted(forward.splitlines()) == sorted(back.splitlines())
    assert forward.index("1: It does not hold") < forward.index("4: It holds entirely")
    assert back.index("1: It does not hold") > back.index("4: It holds entirely")
    assert "point 0" in forward and "Write text number 0" in forward


def calls(*verdicts: tuple[str, int, bool | None]) -> list[Judgement]:
    return [Judgement(grader="g", placement=p, repeat=r, verdict=v) for p, r, v in verdicts]


@pytest.mark.parametrize(
    ("found", "verdict", "flips"),
    [
        ([("forward", 0, True), ("reversed", 0, True)], True, 0),
        ([("forward", 0, True), ("reversed", 0, False)], False, 1),
        ([("forward", 0, True), ("reversed", 0, None)], None, 0),
        ([("forward", 0, True)], True, 0),
        ([("forward", 0, True), ("reversed", 0, True), ("forward", 1, None), ("reversed", 1, False)], True, 0),
        ([("forward", 0, None)], None, 0),
        ([], None, 0),
    ],
)
def test_settling(found: list[tuple[str, int, bool | None]], verdict: bool | None, flips: int):
    settled = settle(calls(*found))
    assert (settled.verdict, settled.flips) == (verdict, flips)


def named(**changes: object) -> Grader:
    spec = GraderSpec.model_validate({"name": "g", "url": "http://h/v1", "model": "m"} | changes)
    return Grader(spec=spec, url=spec.url or "", model=spec.model or "")


def test_a_grader_is_what_it_is_not_where_it_is():
    known = named().uid
    assert named(url="http://other/v1").uid == known and named(concurrency=9).uid == known
    others = [named(model="n"), named(repeats=3), named(both_orders=False), named(temperature=0.5)]
    moved = named().model_copy(update={"revisions": ("sha256:2",)})
    assert len({known, moved.uid, *(g.uid for g in others)}) == 6


def test_a_graders_file_is_read_strictly():
    with pytest.raises(ValidationError, match="exactly one of endpoint, alias and url"):
        GradersFile.model_validate({"graders": [{"name": "g", "alias": "a", "endpoint": "e"}]})
    with pytest.raises(ValidationError, match="needs a model with its url"):
        GradersFile.model_validate({"graders": [{"name": "g", "url": "http://h"}]})
    with pytest.raises(ValidationError, match="same name"):
        GradersFile.model_validate({"graders": [{"name": "g", "alias": "a"}, {"name": "g", "alias": "b"}]})


def test_the_instrument_knows_whose_verdicts_count_and_old_suites_keep_theirs():
    suite = written(2)
    parts = [
        suite.instrument(suite.asked(), {"rubric": 1}, None, g) for g in (None, {"summary": "a"}, {"summary": "b"})
    ]
    assert len(set(parts)) == 3
    stricter = suite.model_copy(
        update={"spec": suite.spec.model_copy(update={"rubrics": {"text": TEXT.model_copy(update={"pass_at": 4})}})}
    )
    assert stricter.digest != suite.digest


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (Completion(text="Anything.", finish_reason="stop"), "ungraded"),
        (Completion(text="", finish_reason="stop"), "ungraded"),
        (Completion(text="I cannot help with that.", finish_reason="stop"), "ungraded"),
        (Completion(text="<think>so", finish_reason="length"), "truncated"),
        (Completion(error="timeout"), "infra_error"),
    ],
)
def test_code_says_nothing_of_a_rubrics_answer(completion: Completion, outcome: str):
    scored = score_completion(SAMPLE, completion)
    assert (scored.outcome_class, scored.score) == (outcome, None)


def test_an_answer_has_one_name_whoever_gives_it():
    assert answer_uid("i", "x") == answer_uid("i", "x") != answer_uid("i", "y") != answer_uid("j", "y")


def row(number: int, outcome: str, arm: str = "candidate") -> dict[str, object]:
    score = {"correct": 1.0, "wrong": 0.0}.get(outcome)
    return {
        "item_uid": f"i{number}", "sample_id": f"s{number}", "category": "summary/x", "cluster": f"s{number}",
        "weight": 1.0, "expected": "answer", "severity": "minor", "epoch": 0, "turn": number, "instrument": "sha256:1",
        "outcome_class": outcome, "score": score, "arm": arm,
    }  # fmt: skip


def test_ungraded_rows_are_in_no_metric():
    known = [row(0, "correct"), row(1, "wrong"), row(2, "unscored")]
    assert dataset_metrics((), [*known, row(3, "ungraded"), row(4, "ungraded")]) == dataset_metrics((), known)
    none = {m.name: m.value for m in dataset_metrics((), [row(3, "ungraded")])}
    assert none == {"accuracy": None, "scored_share": None, "empty_rate": None, "truncated_rate": None}


def test_ungraded_rows_are_in_no_replay():
    piece = SuiteEvidence(
        suite="writing",
        kind="dataset",
        run_id="r",
        suite_digest="d",
        instrument="i",
        metrics=(),
        n_samples=0,
        n_unscored=0,
    )
    again = recomputed(piece, [row(0, "correct"), row(1, "unscored"), row(2, "ungraded")], ())
    assert (again.n_samples, again.n_unscored) == (2, 1)


def test_ungraded_rows_are_in_no_pair():
    who = Incumbent.model_validate(
        {
            "endpoint": "old", "commit_hash": "b" * 40, "engine": "e", "engine_version": "1", "run_id": "r",
            "interleaved": True, "asked_at": "2026-01-01T00:00:00Z",
        }
    )  # fmt: skip
    rule = MarginRule.model_validate({"suite": "writing", "margin": 0.9})
    ours = [row(i, "correct") for i in range(40)] + [row(40, "ungraded"), row(41, "correct")]
    theirs = [row(i, "correct") for i in range(40)] + [row(40, "correct"), row(41, "ungraded")]
    found = compare_arms(rule, Arms(ours, theirs, who), 0.02)
    assert (found.n, found.n_asked, found.missing_candidate, found.breach) == (40, 40, 0.0, "")
    nothing = compare_arms(rule, Arms([row(0, "ungraded")], [row(0, "ungraded")], who), 0.02)
    assert (nothing.n, nothing.difference) == (0, None)


def test_a_sample_names_its_rubric():
    silent = Sample.model_validate({"id": "x", "input": "Q", "metadata": {"category": "g", "scorer": "rubric"}})
    with pytest.raises(ValueError, match=r"params\.rubric"):
        scorer_params(silent)


@pytest.mark.parametrize(
    ("reply", "placement", "value"),
    [
        ('{"better": "first", "reason": "x"}', "forward", 1.0),
        ('{"better": "first"}', "reversed", 0.0),
        ('{"better": "second"}', "reversed", 1.0),
        ('{"better": "same"}', "forward", 0.5),
    ],
)
def test_a_preference_is_put_back_to_its_side(reply: str, placement: str, value: float):
    assert read_preference(reply, placement)[0] == value


@pytest.mark.parametrize(
    "reply", ['{"better": "A"}', '{"better": ["first"]}', '{"reason": "x"}', "first", '{"better": "first", "score": 1}']
)
def test_a_preference_that_breaks_the_contract(reply: str):
    with pytest.raises(ValueError, match=r"better is|not one JSON|nobody asked for"):
        read_preference(reply, "forward")


def test_a_pair_is_shown_both_ways_without_names():
    forward, back = (pair_messages(SAMPLE, TEXT, "ours", "theirs", p)[1]["content"] for p in ("forward", "reversed"))
    assert forward.index("ours") < forward.index("theirs") and back.index("ours") > back.index("theirs")
    assert not any(word in forward for word in ("candidate", "incumbent"))


def test_a_repeat_without_both_orders_says_nothing_of_a_pair():
    def call(placement: str, repeat: int, value: float | None) -> Judgement:
        return Judgement(grader="g", placement=placement, repeat=repeat, preference=value)

    found = compared(
        [call("forward", 0, 1.0), call("reversed", 0, None), call("forward", 1, 1.0), call("reversed", 1, 0.5)]
    )
    assert found == (0.75, 1, 1)
    assert compared([call("forward", 0, 1.0), call("reversed", 0, None)]).value is None
