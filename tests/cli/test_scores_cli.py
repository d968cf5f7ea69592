"""`modelops scores` and `modelops verdict`, as a person types them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.verdicts import Criterion
from tests.fakes.values import a_verdict

NOW = datetime(2026, 11, 21, 12, 30, 15, 123456, tzinfo=UTC)


def modelops(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    code = "from modelops_dagster.cli.main import main; main()"
    environ = {**os.environ, "MODELOPS_HOME": str(home), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code, *argv], env=environ, capture_output=True, text=True, timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    store = ScoreStore(tmp_path / "scores")
    shared = {"run_id": "r1", "commit_hash": "a" * 40, "lane": "raw", "endpoint": "e", "engine": "vllm-cpu"}
    metrics = [
        ("quality", "accuracy", 0.31, 0.22, 0.41, "share"),
        ("performance", "ttft_p95_ms@1", 812.4, None, None, "ms"),
    ]
    for repo_id in ("org/a", "org/b"):
        for suite, metric, value, low, high, unit in metrics:
            row = {**shared, "repo_id": repo_id, "suite": suite, "metric": metric, "value": value, "ci_low": low}
            row |= {"ci_high": high, "unit": unit, "n": 90, "n_samples": 92, "n_unscored": 2, "evaluated_at": NOW}
            store.land("scores", [row], repo_id=repo_id, run_id="r1")
    seen = Criterion(
        suite="quality",
        metric="accuracy",
        tier="required",
        outcome="fail",
        value=0.31,
        ci_low=0.22,
        ci_high=0.41,
        n=90,
        rule="lower bound >= 0.60",
    )
    verdict = a_verdict(
        "fail", reason="fail: quality.accuracy 0.31 (0.22-0.41, n=90) is below 0.60", criteria=(seen,), repo_id="org/a",
        verdict_id="0123456789abcdef", policy="default", policy_digest="sha256:0", decided_at=NOW,
    )  # fmt: skip
    store.land_verdict(verdict, run_id="r1")
    return tmp_path


def test_more_columns_than_fit_are_told_a_row_a_block(home: Path):
    wide = modelops(home, "scores", "--sql", "from score_history order by repo_id, metric limit 2")
    assert wide.returncode == 0, wide.stderr
    assert wide.stdout.splitlines()[0] == "row 1"
    assert "  metric          accuracy\n" in wide.stdout
    assert "previous_value" not in wide.stdout, "what is null is left out"
    narrow = modelops(home, "scores", "--sql", "select repo_id, metric from scores limit 1")
    assert "repo_id   metric" in narrow.stdout


def test_the_latest_scores_are_a_table_with_intervals_and_the_verdict(home: Path) -> None:
    done = modelops(home, "scores")
    assert done.returncode == 0, done.stderr
    for text in ("org/a (raw) at aaaaaaaaaaaa on vllm-cpu", "0.22-0.41", "812 ms", "2 of 92", "is below 0.60"):
        assert text in done.stdout
    assert "no verdict on this commit yet" in done.stdout
    one = modelops(home, "scores", "--repo-id", "org/b", "--json")
    assert {row["repo_id"] for row in json.loads(one.stdout)} == {"org/b"}


def test_sql_answers_as_a_table_and_as_json(home: Path) -> None:
    done = modelops(home, "scores", "--sql", "select repo_id, accuracy, evaluated_at from leaderboard")
    assert done.returncode == 0, done.stderr
    assert "org/a" in done.stdout
    assert "2026-11-21 12:30:15+00:00" in done.stdout
    assert "2 rows" in done.stderr
    found = json.loads(modelops(home, "scores", "--json", "--sql", "select count(*) as n from scores").stdout)
    assert found == [{"n": 4}]
    both = json.loads(modelops(home, "scores", "--json", "--sql", "select 1 as n, 2 as n, 3 as n").stdout)
    assert both == [{"n": 1, "n_2": 2, "n_3": 3}]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("scores", "--sql", "select nope from scores"), "the SQL does not hold: Binder Error"),
        (("scores", "--sql", "drop table scores"), "DROP is refused"),
        (("scores", "--repo-id", "org/nobody"), "there are no scores of 'org/nobody'"),
        (("scores", "--repo-id", "org/a", "--sql", "select 1"), "exclude each other"),
        (("verdict", "show", "org/nobody"), "there is no verdict on 'org/nobody'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(home: Path, argv: tuple[str, ...], words: str) -> None:
    done = modelops(home, *argv)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_verdict_is_shown_with_its_criteria(home: Path) -> None:
    done = modelops(home, "verdict", "show", "org/a")
    assert done.returncode == 0, done.stderr
    for text in ("fail: quality.accuracy", "policy default", "0123456789abcdef", "lower bound >= 0.60", "required"):
        assert text in done.stdout
    assert "is below 0.60" in modelops(home, "verdict", "show").stdout
    found = json.loads(modelops(home, "verdict", "show", "org/a", "--json").stdout)
    assert found[0]["criteria"][0]["value"] == 0.31


def test_an_empty_history_says_what_to_do(tmp_path: Path) -> None:
    for argv in (("scores",), ("verdict", "show")):
        done = modelops(tmp_path, *argv)
        assert done.returncode == 0, done.stderr
        assert "modelops onboard REPO_ID" in done.stdout
    assert modelops(tmp_path, "scores", "--json").stdout.strip() == "[]"
    assert not (tmp_path / "scores").exists(), "reading makes nothing"


def test_load_is_shown_in_the_terms_asked_for(tmp_path: Path) -> None:
    asked = {"run_id": "r9", "repo_id": "org/a", "commit_hash": "a" * 40, "lane": "raw", "endpoint": "e"}
    asked |= {"suite": "performance", "concurrency": 1, "status": "ok", "tokens_out": 5, "client_queue_ms": 0.0}
    times = {"first_chunk_ms": 6.0, "ttft_ms": 200.0, "ttfot_ms": 200.0, "e2el_ms": 280.0}
    gaps = {"itl_ms": "[20.0,20.0,20.0,20.0]", "chunk_gaps_ms": "[194.0,20.0,20.0,20.0,20.0]", "started_at": NOW}
    failed = {**asked, "request": 1, "status": "timeout", "tokens_out": None, "started_at": NOW}
    rows = [{**asked, **times, **gaps, "request": 0}, failed]
    ScoreStore(tmp_path / "scores").land("perf_requests", rows, repo_id="org/a", run_id="r9")
    done = modelops(tmp_path, "scores", "load", "--as", "vllm")
    assert done.returncode == 0, done.stderr
    assert "as vllm has it" in done.stdout
    levels = {
        tool: json.loads(modelops(tmp_path, "scores", "load", "--run", "r9", "--as", tool, "--json").stdout)[0][
            "levels"
        ]
        for tool in ("modelops", "vllm")
    }
    assert [(lines[0]["requests"], lines[0]["failed"]) for lines in levels.values()] == [(2, 1), (2, 1)]
    assert levels["modelops"][0]["ttft_p50_ms"] == 200
    assert (levels["vllm"][0]["ttft_p50_ms"], levels["vllm"][0]["tpot_p50_ms"]) == (6, 68.5)
    missing = modelops(tmp_path, "scores", "load", "--run", "nope")
    assert missing.returncode == 2
    assert "there are no load requests of run 'nope'" in missing.stderr
    mixed = modelops(tmp_path, "scores", "--json", "load")
    assert mixed.returncode == 2
    assert "go behind its name" in mixed.stderr
