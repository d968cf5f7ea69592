"""A log of Inspect read back, as 0.3.285 wrote it (events left out): what has a score, and what only seems to."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.imported import ImportedTask
from modelops_dagster.domain.gauntlet.inspect_results import ended_badly, inspect_task

LOG = Path(__file__).parents[1] / "golden" / "imported" / "inspect" / "say.json"


@pytest.fixture
def log() -> dict[str, Any]:
    return dict(json.loads(LOG.read_text()))


def read(log: dict[str, Any], code: str = "") -> ImportedTask:
    return inspect_task(log, "say.json", "sha256:1", code)


def values(task: ImportedTask) -> dict[str, tuple[float | None, int]]:
    return {metric.name: (metric.value, metric.n) for metric in task.metrics}


def test_what_a_budget_or_an_error_ended_has_no_score(log: dict[str, Any]) -> None:
    task = read(log)
    assert (task.suite, task.version, task.n_samples, task.n_unscored) == ("inspect:say", "0.3.285", 5, 3)
    assert {a.sample_id: (a.score, a.said) for a in task.answers} == {
        "w0": (1.0, "word0"),
        "w3": (0.0, "nothing"),
        "w10": (None, None),
        "w2": (None, None),
        "w5": (None, None),
    }
    why = {a.sample_id: a.explanation for a in task.answers if a.score is None}
    assert why == {
        "w10": "ended by its custom limit of 30",
        "w2": "not answered: the run ended before",
        "w5": "never asked: the run ended before",
    }
    assert {a.category for a in task.answers} == {"say"}


def test_inspects_own_metrics_are_left_out_where_they_count_such_a_sample(log: dict[str, Any]) -> None:
    assert values(read(log)) == {"exact": (0.5, 2), "scored_share": (0.4, 5)}
    log["samples"] = [s for s in log["samples"] if s["id"] in ("w0", "w3")]
    log["eval"]["dataset"]["sample_ids"] = ["w0", "w3"]
    whole = values(read(log))
    assert whole == {"exact": (0.5, 2), "scored_share": (1.0, 2), "exact/mean": (0.2, 20)}


@pytest.mark.parametrize(
    ("value", "score"),
    [("C", 1.0), ("P", 0.5), ("N", 0.0), (True, 1.0), ("Yes", 1.0), (0.25, 0.25), (7, None), (float("nan"), None)],
)
def test_letters_words_and_numbers_are_shares(log: dict[str, Any], value: object, score: float | None) -> None:
    log["samples"][0]["scores"]["exact"]["value"] = value
    assert read(log).answers[0].score == score
    json.loads(read(log).answers[0].explanation)


def test_the_instrument_is_the_task_and_how_it_is_asked_and_scored(log: dict[str, Any]) -> None:
    task = read(log)
    slower = copy.deepcopy(log)
    slower["eval"]["model_generate_config"] = {"max_connections": 1, "attempt_timeout": 5}
    slower["eval"]["model_base_url"] = "http://elsewhere/v1"
    assert read(slower).parts == task.parts
    for change in ("temperature", "solver", "role", "code"):
        other = copy.deepcopy(log)
        if change == "temperature":
            other["plan"]["config"] = {"temperature": 1.0}
        elif change == "solver":
            other["plan"]["steps"] = [{"solver": "chain_of_thought", "params": {}}]
        elif change == "role":
            other["eval"]["model_roles"]["grader"]["model"] = "openai/other"
        assert read(other, code="sha256:2" if change == "code" else "").configuration != task.configuration, change
    log["samples"][0]["target"] = "another"
    assert read(log).questions != task.questions


def test_a_run_that_was_cut_says_so(log: dict[str, Any]) -> None:
    assert ended_badly(log) == ""
    assert ended_badly({"status": "cancelled"}) == "cancelled: no reason given"
    assert ended_badly({"status": "error", "error": {"message": "no\n tokenizer"}}) == "error: no tokenizer"


def test_another_tools_document_is_refused(log: dict[str, Any]) -> None:
    del log["eval"]["dataset"]
    with pytest.raises(InvalidSpec, match="lacks 'dataset'"):
        read(log)
