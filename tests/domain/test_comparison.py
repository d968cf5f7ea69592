"""Two revisions side by side: which two, and what must not be compared."""

from datetime import UTC, datetime
from typing import Any

from modelops_dagster.domain.comparison import Score, compare_with_previous, comparison_table

OLD, NEW, OLDER = "a" * 40, "b" * 40, "c" * 40


def score(commit_hash: str, day: int, value: float | None, metric: str = "accuracy", **more: Any) -> Score:
    stated = {"engine": "vllm 1", "suite": "quality", "instrument": "sha256:i", "unit": "share"} | more
    at = datetime(2026, 1, day, tzinfo=UTC)
    return Score(commit_hash=commit_hash, metric=metric, value=value, evaluated_at=at, **stated)


def test_the_first_revision_has_nothing_to_be_compared_with():
    assert compare_with_previous([], NEW) is None
    assert compare_with_previous([score(NEW, 1, 0.5), score(NEW, 2, 0.6)], NEW) is None
    assert compare_with_previous([score(NEW, 1, 0.5), score(OLD, 2, 0.6)], NEW) is None  # OLD came after it
    assert compare_with_previous([score(OLD, 1, 0.5)], NEW) is None


def test_the_revision_evaluated_last_before_is_the_previous_one_with_its_latest_numbers():
    history = [score(OLDER, 1, 0.1), score(OLD, 2, 0.4), score(OLD, 3, 0.5), score(NEW, 4, 0.6), score(NEW, 5, 0.75)]
    found = compare_with_previous(history, NEW)
    assert found is not None
    assert found.previous_commit == OLD
    assert [(c.before, c.now, c.difference) for c in found.changes] == [(0.5, 0.75, 0.25)]
    assert (found.refused, found.note) == ((), "")
    assert comparison_table(found) == [
        {"metric": "quality.accuracy", "before": "0.50", "now": "0.75", "change": "+0.25"}
    ]


def test_a_revision_that_came_back_is_compared_with_what_stood_in_between():
    history = [score(OLD, 1, 0.5), score(NEW, 2, 0.9), score(OLD, 3, 0.6)]
    found = compare_with_previous(history, OLD)
    assert found is not None
    assert (found.previous_commit, found.changes[0].before, found.changes[0].now) == (NEW, 0.9, 0.6)


def test_numbers_of_two_instruments_are_refused_with_the_reason():
    history = [
        score(OLD, 1, 0.5, instrument="sha256:other"),
        score(OLD, 1, 10.0, "ttft_ms", suite="performance", unit="ms"),
        score(NEW, 2, 0.9),
        score(NEW, 2, 8.0, "ttft_ms", suite="performance", unit="ms"),
    ]
    found = compare_with_previous(history, NEW)
    assert found is not None
    assert [(c.suite, c.difference) for c in found.changes] == [("performance", -2.0)]
    assert len(found.refused) == 1
    assert found.refused[0].startswith("quality: its instrument changed")
    assert comparison_table(found)[0]["change"] == "-2.00 ms"


def test_a_suite_that_ran_on_one_revision_only_is_refused():
    history = [score(OLD, 1, 0.5, suite="old"), score(NEW, 2, 0.5, suite="new"), score(OLD, 1, 1.0), score(NEW, 2, 1.0)]
    found = compare_with_previous(history, NEW)
    assert found is not None
    assert found.refused == (
        "new: it was not run on the previous revision",
        "old: it was not run on this revision",
    )


def test_a_missing_number_has_no_difference_and_another_engine_is_noted():
    history = [
        score(OLD, 1, None),
        score(OLD, 1, 0.1, "gone"),
        score(NEW, 2, 0.5, engine="vllm 2"),
        score(NEW, 2, 0.2, "added", engine="vllm 2"),
    ]
    found = compare_with_previous(history, NEW)
    assert found is not None
    assert [(c.metric, c.before, c.now, c.difference) for c in found.changes] == [
        ("accuracy", None, 0.5, None),
        ("added", None, 0.2, None),
        ("gone", 0.1, None, None),
    ]
    assert found.note == "The engine differs as well: vllm 1 before, vllm 2 now."
