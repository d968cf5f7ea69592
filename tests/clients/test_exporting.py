"""Stored runs as Inspect's eval logs: the document as recorded, and read back by Inspect where it is installed."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.exporting import inspect_logs, write_logs
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.settings import Settings
from tests.clients.score_rows import score

GOLDEN = Path(__file__).parents[1] / "golden" / "inspect_log.json"
AT = datetime(2026, 11, 21, 11, 59, tzinfo=UTC)
KNOWN = Sample.model_validate(
    {
        "id": "q1",
        "input": "Which is prime?",
        "target": "A",
        "choices": ["7", "8"],
        "metadata": {"category": "math", "scorer": "choice"},
    }
)
SAMPLING = json.dumps({"sampling": {"temperature": 0, "top_p": 1, "max_tokens": 64, "seed": 1}})


def _row(number: int, mark: float | None, **changes: Any) -> dict[str, Any]:
    shared = {k: v for k, v in score().items() if k in ("run_id", "repo_id", "commit_hash", "lane", "endpoint")}
    return shared | {
        "engine": "vllm-cpu", "engine_version": "0.11", "suite": "quality", "suite_digest": "d", "instrument": "i",
        "item_uid": f"uid-{number}", "sample_id": f"q{number}", "category": "math", "epoch": 0, "weight": 1.0,
        "input": json.dumps(f"question {number}"), "completion": f"answer {number}", "finish_reason": "stop",
        "outcome_class": "correct" if mark else "wrong", "score": mark, "explanation": f"because {number}",
        "tokens_in": 10, "tokens_out": 5, "latency_ms": 250.0, "attempts": 1, "cache_hit": 0, "started_at": AT,
    } | changes  # fmt: skip


def stored_run(home: Path) -> ScoreStore:
    """One run: a suite with a right, a wrong, a lost and a second answer to the first question; and another suite."""
    store = ScoreStore(home / "scores")
    said = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 2"}])
    rows = [
        _row(1, 1.0, item_uid=KNOWN.uid, input=KNOWN.asked, completion="A"),
        _row(1, 0.5, item_uid=KNOWN.uid, input=KNOWN.asked, completion="A or B", epoch=1),
        _row(2, 0.0, input=said, reasoning="let me see", finish_reason="length"),
        _row(3, None, outcome_class="infra_error", completion="", explanation="timed out", tokens_out=None),
        _row(4, None, outcome_class="ungraded", explanation="", latency_ms=None),
    ]
    store.land("samples", rows, repo_id="org/model", run_id="run-1")
    other = [_row(5, 1.0, suite="compliance")]
    store.land("samples", other, repo_id="org/model", run_id="run-1")
    metrics = [
        score(ci_low=0.3, ci_high=0.7, instrument_parts=SAMPLING),
        score(metric="accuracy/math", value=None, n=0, instrument_parts=SAMPLING),
    ]
    store.land("scores", metrics, repo_id="org/model", run_id="run-1")
    return store


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return stored_run(tmp_path)


def test_the_log_is_as_recorded(store: ScoreStore) -> None:
    (log,) = inspect_logs(store, "run-1", ["quality"], {KNOWN.uid: KNOWN})
    assert log == json.loads(GOLDEN.read_text())


READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log
found = {}
for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    found[log.eval.task] = log.model_dump(mode="json")
print(json.dumps(found))
"""


def test_inspect_reads_counts_scores_and_metrics(store: ScoreStore, tmp_path: Path) -> None:
    settings = Settings.load()
    environment = EngineRegistry.from_settings(settings).environment("inspect")
    if environment is None:
        pytest.skip("Inspect's own reader is not here: `modelops engines install inspect` makes this test run")
    write_logs(inspect_logs(store, "run-1", [], {KNOWN.uid: KNOWN}), tmp_path / "logs")
    done = subprocess.run(
        [environment / "bin" / "python", "-I", "-c", READ, tmp_path / "logs"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == ["compliance", "quality"]
    log = found["quality"]
    spec, results = log["eval"], log["results"]
    assert (log["status"], spec["model"], spec["dataset"]["samples"], spec["config"]["epochs"]) == (
        "success", "org/model", 4, 2,
    )  # fmt: skip
    assert (results["total_samples"], results["completed_samples"]) == (5, 4)
    (scores,) = results["scores"]
    assert (scores["scored_samples"], scores["unscored_samples"]) == (3, 2)
    assert {name: (m["value"], m["metadata"]["ci_low"]) for name, m in scores["metrics"].items()} == {
        "accuracy": (0.5, 0.3)
    }
    by_id = {(s["id"], s["epoch"]): s for s in log["samples"]}
    assert {key: s["scores"]["modelops"]["value"] for key, s in by_id.items() if s["scores"]} == {
        ("q1", 1): 1.0, ("q1", 2): 0.5, ("q2", 1): 0.0,
    }  # fmt: skip
    assert by_id["q1", 1]["target"] == "A"
    assert by_id["q1", 1]["choices"] == ["7", "8"]
    assert by_id["q3", 1]["error"]["message"] == "timed out"
    cut = by_id["q2", 1]
    assert (cut["output"]["choices"][0]["stop_reason"], cut["output"]["completion"]) == ("max_tokens", "answer 2")
    assert [m["role"] for m in cut["messages"]] == ["system", "user", "assistant"]
    assert log["stats"]["model_usage"]["org/model"]["total_tokens"] == 70


def test_a_folder_takes_every_log_and_a_file_one(store: ScoreStore, tmp_path: Path) -> None:
    logs = inspect_logs(store, "run-1", [], {})
    names = [path.name for path in write_logs(logs, tmp_path / "logs")]
    assert [name.split("_")[:2] for name in names] == [
        ["2026-11-21T11-59-00+00-00", "compliance"],
        ["2026-11-21T11-59-00+00-00", "quality"],
    ]
    with pytest.raises(InvalidSpec, match=r"the run has 2 \(compliance of e, quality of e\)"):
        write_logs(logs, tmp_path / "run.json")
    assert write_logs(logs[:1], tmp_path / "run.json") == [tmp_path / "run.json"]
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["run.json"]


def test_a_task_named_by_another_tool_names_no_other_folder(store: ScoreStore, tmp_path: Path) -> None:
    store.land("samples", [_row(1, 1.0, run_id="run-2", suite="nemo:../../up")], repo_id="org/model", run_id="run-2")
    (path,) = write_logs(inspect_logs(store, "run-2", [], {}), tmp_path / "logs")
    assert path.parent == tmp_path / "logs"
    assert "_nemo-up_" in path.name


def test_a_place_that_cannot_be_written_is_said(store: ScoreStore, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidSpec, match="cannot be written"):
        write_logs(inspect_logs(store, "run-1", [], {}), tmp_path / "taken")


@pytest.mark.parametrize(
    ("run", "suites", "said"),
    [
        ("run-9", [], r"no samples of run 'run-9'"),
        ("run-1", ["style"], r"no samples of suite 'style'; it has those of compliance, quality"),
    ],
)
def test_what_is_not_there_is_said(store: ScoreStore, run: str, suites: list[str], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        inspect_logs(store, run, suites, {})
