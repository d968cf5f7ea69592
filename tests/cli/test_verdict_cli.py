"""`modelops verdict`, as a person types it, over a decision that was made from stored samples."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.gauntlet.aggregates import dataset_metrics
from modelops_dagster.domain.verdicts import Arms, Case, SuiteEvidence, Verdict, decide
from tests.fakes.paired_worlds import INCUMBENT, NOW, World, draw, margin_policy

NEW = {"run_id": "run-1", "repo_id": "org/model", "lane": "raw", "suite": "quality"}


def modelops(home: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    code = "from modelops_dagster.cli.main import main; main()"
    env = {**os.environ, "MODELOPS_HOME": str(home), "COLUMNS": "200", **environ}
    return subprocess.run([sys.executable, "-c", code, *argv], env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verdict]:
    home = tmp_path_factory.mktemp("home")
    store = ScoreStore(home / "scores")
    candidate, incumbent = draw(World(300), np.random.default_rng(1))
    arms: dict[str, list[dict[str, Any]]] = {}
    for arm, endpoint, commit, rows in (
        ("candidate", "org-model-raw-new", "a" * 40, candidate),
        ("incumbent", INCUMBENT.endpoint, "b" * 40, incumbent),
    ):
        arms[arm] = [{**NEW, **r, "arm": arm, "endpoint": endpoint, "commit_hash": commit} for r in rows]
        store.land("samples", arms[arm], repo_id="org/model", run_id="run-1")
    evidence = SuiteEvidence(
        suite="quality", kind="dataset", run_id="run-1", suite_digest="d", instrument="sha256:i",
        metrics=dataset_metrics((), arms["candidate"]), n_samples=300, n_unscored=0,
    )  # fmt: skip
    verdict = decide(
        Case(
            margin_policy(0.05), [evidence], "org/model", "a" * 40, "raw", "org-model-raw-new", NOW,
            {"quality": Arms(arms["candidate"], arms["incumbent"], INCUMBENT)},
        )
    )  # fmt: skip
    store.land_verdict(verdict, run_id="run-1")
    return home, verdict


def test_a_comparison_is_shown_by_id_and_by_model(decided: tuple[Path, Verdict]) -> None:
    home, verdict = decided
    for subject in (verdict.verdict_id, "org/model"):
        done = modelops(home, "verdict", "show", subject)
        assert done.returncode == 0, done.stderr
        for words in (
            "against org-model-raw-old@bbbbbbbbbbbb",
            "exact McNemar p",
            "margin / detectable",
            "side by side",
        ):
            assert words in done.stdout
    found = json.loads(modelops(home, "verdict", "show", verdict.verdict_id, "--json").stdout)
    assert found[0]["comparisons"][0]["n"] == 300


def test_a_replay_gives_the_same_numbers(decided: tuple[Path, Verdict]) -> None:
    home, verdict = decided
    done = modelops(home, "verdict", "replay", verdict.verdict_id)
    assert done.returncode == 0, done.stderr
    assert "the stored samples give the same" in done.stdout
    told = json.loads(modelops(home, "verdict", "replay", verdict.verdict_id, "--json").stdout)
    assert (told["stored"], told["again"], told["mismatches"]) == (verdict.outcome, verdict.outcome, [])


def test_a_replay_of_changed_samples_exits_1_with_the_numbers(decided: tuple[Path, Verdict]) -> None:
    home, verdict = decided
    path = next((home / "scores" / "landing" / "samples").rglob("*candidate*.parquet"))
    kept, body = path.read_bytes(), pq.read_table(path).to_pylist()
    for row in body[:40]:
        row["score"] = 0.0
    ScoreStore(home / "scores").land("samples", body, repo_id="org/model", run_id="run-1")
    done = modelops(home, "verdict", "replay", verdict.verdict_id)
    path.write_bytes(kept)
    assert done.returncode == 1, done
    for words in ("quality.accuracy value", "quality.score_vs_incumbent difference"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("replay", "feed"), "there is no verdict 'feed'"),
        (("show", "feed"), "there is no verdict 'feed'"),
        (("show", "org/nobody"), "there is no verdict on 'org/nobody'"),
        (("policy", "nope"), "there is no policy 'nope'"),
        (("reopen", "org/nobody"), "org/nobody is not held in the lane raw: there is no decision"),
        (("reopen", "nobody"), "'nobody'"),
        (("reopen", "org/model", "--lane", "bf16"), "'bf16' is not one of 'raw'"),
    ],
)
def test_a_mistake_is_one_sentence(decided: tuple[Path, Verdict], argv: tuple[str, ...], words: str) -> None:
    done = modelops(decided[0], "verdict", *argv)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_shipped_policies_ask_for_what_their_suites_can_show(tmp_path: Path) -> None:
    for name in ("default", "demo"):
        done = modelops(tmp_path, "verdict", "policy", name, "--json")
        assert done.returncode == 0, done.stderr
        primary = next(row for row in json.loads(done.stdout) if row["tier"] == "primary")
        assert primary["detectable"] <= primary["margin"]
        assert primary["needed"] <= primary["samples"]


def test_a_margin_below_the_detectable_effect_is_refused(tmp_path: Path) -> None:
    suites = tmp_path / "suites"
    (suites / "policies").mkdir(parents=True)
    (suites / "q.yaml").write_text("{name: q, kind: dataset, title: Q, samples: q.jsonl}")
    line = {"input": "What?", "target": "this", "metadata": {"category": "a", "scorer": "includes"}}
    (suites / "q.jsonl").write_text("\n".join(json.dumps({"id": f"s{i}", **line}) for i in range(50)))
    (suites / "policies" / "tight.yaml").write_text(
        "name: tight\nversion: 1\ndescription: d\n"
        "criteria: [{suite: q, metric: accuracy, min: 0.5, when: no_incumbent}]\n"
        "against_incumbent: [{suite: q, margin: 0.02}]\n"
    )
    done = modelops(tmp_path, "verdict", "policy", "tight", MODELOPS_EVAL_DATASETS=str(suites))
    assert done.returncode == 2
    assert "below what 50 samples can show (0.111 at 80 % power" in done.stderr
    assert "ask 1546 samples or widen the margin" in done.stderr


def test_a_grader_is_calibrated_and_corrected(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    right = rng.random(400) < 0.6
    grade = np.where(right, rng.random(400) < 0.95, rng.random(400) > 0.75)
    lines = [f"{int(g)},{int(r) if i < 150 else ''}" for i, (g, r) in enumerate(zip(grade, right, strict=True))]
    (tmp_path / "g.csv").write_text("grade,human\n" + "\n".join(lines))
    done = modelops(tmp_path, "verdict", "grader", str(tmp_path / "g.csv"), "--json")
    assert done.returncode == 0, done.stderr
    found = {row["number"]: row for row in json.loads(done.stdout)}
    assert found["sensitivity"]["low"] < 0.95 < found["sensitivity"]["high"]
    assert found["mean of the grader"]["low"] > right.mean()
    assert found["corrected mean"]["low"] < right.mean() < found["corrected mean"]["high"]
    routed = [f"{line},{0.5 if i % 2 else 0.25}" for i, line in enumerate(lines)]
    (tmp_path / "r.csv").write_text("grade,human,chance\n" + "\n".join(routed))
    assert "corrected mean" in modelops(tmp_path, "verdict", "grader", str(tmp_path / "r.csv")).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grade\n1\n", "no column 'human'"),
        ("grade,human\n1,2\n", "g.csv:2: human is '2'"),
        ("grade,human\n,1\n", "g.csv:2: grade is empty"),
        ("grade,human\n1,1\n0,1\n", "both kinds are needed"),
        ("grade,human,chance\n1,1,0.01\n0,0,1\n", "every sample needs a chance"),
    ],
)
def test_a_table_that_does_not_hold_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text(text)
    done = modelops(tmp_path, "verdict", "grader", str(tmp_path / "g.csv"))
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
