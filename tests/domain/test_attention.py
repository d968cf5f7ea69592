"""What a report tells its reader to look at first."""

from modelops_dagster.domain.attention import MAX_LINES, look_first
from tests.clients.score_rows import verdict


def sample(**changes: object) -> dict[str, object]:
    return {"severity": None, "outcome_class": "correct", "sample_id": "q1", **changes}


def test_nothing_stands_out_of_a_pass():
    assert look_first(verdict("pass"), [sample()], [], []) == []


def test_what_decided_comes_first_then_critical_answers_then_losses_then_the_ladder():
    lines = look_first(
        verdict("fail"),
        [sample(severity="critical", outcome_class="wrong")],
        [{"change": "worse"}, {"change": "better"}],
        [{"rung": "vllm", "reason": "out_of_memory"}],
    )
    assert lines == [
        "quality.accuracy is 0.50, asked for >= 0.40.",
        "1 critical sample answered wrongly: q1.",
        "1 sample that the incumbent got right and this model did not.",
        "It stands on a lower rung: vllm was left (out_of_memory).",
    ]


def test_a_long_list_is_cut():
    seen = verdict("fail")
    assert len(look_first(seen.model_copy(update={"criteria": seen.criteria * 20}), [], [], [])) == MAX_LINES
