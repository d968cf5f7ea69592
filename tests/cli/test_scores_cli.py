"""`modelops scores` and `modelops verdict`, as a person types them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.verdicts import Criterion, Verdict

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
    verdict = Verdict(
        verdict_id="0123456789abcdef",
        outcome="fail",
        reason="fail: quality.accuracy 0.31 (0.22-0.41, n=90) is below 0.60",
        policy="default",
        policy_digest="sha256:0",
        criteria=(seen,),
        repo_id="org/a",
        commit_hash="a" * 40,
        lane="raw",
        endpoint="e",
        decided_at=NOW,
    )
    store.land_verdict(verdict, run_id="r1")
    return tmp_path


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
