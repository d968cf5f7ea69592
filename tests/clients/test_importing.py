"""Other tools' results: as lm-eval 0.4.13 wrote them for its dummy model, and as NeMo Evaluator 0.2 and 0.3 do."""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelops_dagster.clients.scores import ScoreStore, previous_comparison
from modelops_dagster.clients.scores.importing import NO_COMMIT, land_imported, read_files
from modelops_dagster.domain.errors import DiskFull, InvalidSpec
from modelops_dagster.domain.gauntlet.imported import Tool
from modelops_dagster.domain.policies import Rule
from tests.clients.score_rows import NOW, score

GOLDEN = Path(__file__).parents[1] / "golden" / "imported"
TIME = "2026-11-26T09-20-55.332601"
RESULTS = f"results_{TIME}.json"
GEN = f"samples_toy_gen_{TIME}.jsonl"
REPO = "org/model"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "files"))


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def _take(store: ScoreStore, tool: Tool, *paths: Path, commit: str | None = None) -> list[bool]:
    return [one.is_new for one in land_imported(store, read_files(tool, paths), REPO, commit, "raw")]


def _scores(store: ScoreStore) -> dict[tuple[str, str], tuple[float, float | None, float | None, int]]:
    _, rows = store.query("select suite, metric, value, round(ci_low, 3), round(ci_high, 3), n from scores")
    return {(suite, metric): tuple(rest) for suite, metric, *rest in rows}


def test_lm_eval_results_bring_every_task_with_its_answers(store: ScoreStore, files: Path) -> None:
    assert _take(store, "lm-eval", files / "lm-eval" / RESULTS) == [True, True]
    assert _scores(store) == {
        ("lm-eval:toy_gen", "exact_match"): (pytest.approx(1 / 3), -0.32, 0.987, 3),
        ("lm-eval:toy_mc", "acc"): (pytest.approx(2 / 3), 0.013, 1.32, 3),
        ("lm-eval:toy_mc", "acc_norm"): (pytest.approx(2 / 3), 0.013, 1.32, 3),
    }
    columns, rows = store.query("""
        select sample_id, input, completion, score, outcome_class, explanation from samples
        where suite = 'lm-eval:toy_gen' order by sample_id
    """)
    assert [dict(zip(columns, row, strict=True)) for row in rows][2] == {
        "sample_id": "2", "input": '"3*3?"', "completion": "lol", "score": 1.0, "outcome_class": "correct",
        "explanation": '{"exact_match":1.0,"target":"lol"}',
    }  # fmt: skip
    assert store.query("select sum(score) from samples where suite = 'lm-eval:toy_mc'")[1] == [(2.0,)]
    assert store.query("select distinct commit_hash, engine, endpoint from scores")[1] == [
        (NO_COMMIT, "imported", "imported")
    ]


def test_an_inspect_log_lands_like_any_other_tools(store: ScoreStore, files: Path) -> None:
    log = files / "inspect" / "say.json"
    assert _take(store, "inspect", log, commit="c" * 40) == [True]
    assert _take(store, "inspect", log, commit="c" * 40) == [False]
    assert _scores(store)["inspect:say", "exact"][0] == 0.5
    _, rows = store.query("select sample_id, score, outcome_class from samples order by sample_id")
    assert rows == [
        ("w0", 1.0, "correct"),
        ("w10", None, "unscored"),
        ("w2", None, "unscored"),
        ("w3", 0.0, "wrong"),
        ("w5", None, "unscored"),
    ]
    with pytest.raises(InvalidSpec, match="inspect log convert --to json"):
        read_files("inspect", [log.with_suffix(".eval")])


def test_nemo_bundle_brings_its_answers_and_categories(store: ScoreStore, files: Path) -> None:
    assert _take(store, "nemo", files / "nemo-0.3" / "results.jsonl", commit="c" * 40) == [True]
    assert _scores(store) == {
        ("nemo:mmlu_pro", "pass@1"): (0.5, 0.1, 0.9, 2),
        ("nemo:mmlu_pro", "mean_reward/algebra"): (1.0, None, None, 2),
    }
    _, rows = store.query("select sample_id, epoch, category, score, completion, commit_hash from samples order by all")
    assert rows == [
        ("0", 0, "algebra", 1.0, "The answer is 4.", "c" * 40),
        ("0", 1, "algebra", 1.0, "4", "c" * 40),
        ("1", 0, "geography", 0.0, "Rome", "c" * 40),
    ]


def test_nemo_results_yml_brings_tasks_and_keeps_no_target(store: ScoreStore, files: Path) -> None:
    assert _take(store, "nemo", files / "nemo-0.2" / "results.yml") == [True]
    assert _scores(store) == {
        ("nemo:ifeval", "prompt_level_strict_acc"): (0.4, 0.204, 0.596, 10),
        ("nemo:ifeval", "pass@1/symbolic_correct"): (0.5, None, None, 0),
    }
    parts = json.loads(store.query("select any_value(instrument_parts) from scores")[1][0][0])
    assert (parts["kind"], parts["tool"], parts["version"], parts["task"]) == ("imported", "nemo", "0.2.8", "ifeval")
    assert "MY_API_KEY" not in json.dumps(parts)


def test_the_same_file_twice_lands_once_and_answers_may_come_later(store: ScoreStore, files: Path) -> None:
    alone = files / "alone" / RESULTS
    alone.parent.mkdir()
    shutil.copy(files / "lm-eval" / RESULTS, alone)
    assert _take(store, "lm-eval", alone) == [True, True]
    assert store.counts()["samples"] == 0
    assert _take(store, "lm-eval", files / "lm-eval" / GEN) == [True]
    counts = store.counts()
    assert (counts["scores"], counts["samples"]) == (3, 3)
    assert _take(store, "lm-eval", files / "lm-eval" / GEN, alone) == [False, False]
    assert store.counts() == counts


@pytest.mark.parametrize("change", ["version", "configuration", "task"])
def test_the_instrument_is_the_tools_own(store: ScoreStore, files: Path, change: str) -> None:
    path = files / "lm-eval" / RESULTS
    before = {found.task.suite: found.task.parts for found in read_files("lm-eval", [path])}
    document = json.loads(path.read_text())
    if change == "version":
        document["lm_eval_version"] = "0.5"
    elif change == "configuration":
        document["configs"]["toy_gen"]["num_fewshot"] = 5
    else:
        document["task_hashes"]["toy_gen"] = "other"
    document["config"]["model_args"] = {"api_key": "secret", "pretrained": "elsewhere"}
    path.write_text(json.dumps(document))
    after = {found.task.suite: found.task.parts for found in read_files("lm-eval", [path])}
    assert before["lm-eval:toy_gen"] != after["lm-eval:toy_gen"]
    # what only the other task, or only the model, changed is no part of this one's
    assert (before["lm-eval:toy_mc"] != after["lm-eval:toy_mc"]) == (change == "version")


def test_a_commit_the_tool_knows_is_taken_and_the_users_goes_before(store: ScoreStore, files: Path) -> None:
    path = files / "lm-eval" / RESULTS
    document = json.loads(path.read_text())
    document["config"]["model_sha"] = "d" * 40
    path.write_text(json.dumps(document))
    _take(store, "lm-eval", path)
    _take(store, "lm-eval", path, commit="e" * 40)
    assert store.query("select distinct commit_hash from scores order by 1")[1] == [("d" * 40,), ("e" * 40,)]


def test_no_policy_names_them_and_nothing_compares_them(store: ScoreStore, files: Path) -> None:
    old = score("r1", commit_hash="a" * 40)
    new = score("r2", commit_hash="b" * 40, evaluated_at=NOW + timedelta(days=30))
    for row in (old, new):
        store.land("scores", [row], repo_id=REPO, run_id=row["run_id"])
    ranks = store.query("from leaderboard")
    _take(store, "lm-eval", files / "lm-eval" / RESULTS)
    assert store.query("from leaderboard") == ranks
    compared = previous_comparison(store, REPO, "raw", "b" * 40)
    assert compared is not None
    assert (compared.previous_commit, [c.suite for c in compared.changes]) == ("a" * 40, ["quality"])
    with pytest.raises(ValidationError, match="suite"):
        Rule(suite="lm-eval:toy_gen", metric="exact_match", min=0.5)


def _broken(files: Path, name: str, text: str) -> Path:
    path = files / name
    path.write_text(text)
    return path


LINE = {"doc_id": 0, "filtered_resps": ["x"], "metrics": ["exact_match"], "exact_match": 1.0}


@pytest.mark.parametrize(
    ("tool", "name", "text", "said"),
    [
        ("lm-eval", f"lm-eval/{GEN}", "{not json\n", r"samples_toy_gen_.*jsonl:1 is not JSON"),
        ("lm-eval", f"lm-eval/{GEN}", "[1]\n", r":1 is not a JSON object"),
        ("lm-eval", f"lm-eval/{GEN}", '{"problem_idx": 0, "reward": 1}\n', r":1 lacks 'doc_id', so it is not what lm-"),
        ("lm-eval", f"lm-eval/{GEN}", json.dumps(LINE) + "\n" + json.dumps(LINE | {"metrics": 1}), r":2 has another"),
        ("lm-eval", f"lm-eval/{RESULTS}", '{"results": {}}', r"lacks 'versions'"),
        ("lm-eval", f"lm-eval/{RESULTS}", "nothing", r"is not JSON"),
        ("lm-eval", "lm-eval/samples_other_2026-11-26T09-00-00.1.jsonl", "", r"has no results_2026-11-26T09-00-00.1.j"),
        ("lm-eval", f"lm-eval/samples_other_{TIME}.jsonl", json.dumps(LINE), r"has no task 'other'"),
        ("lm-eval", "nemo-0.3/results.jsonl", None, r"is neither results_<time>.json nor samples"),
        ("nemo", "nemo-0.3/results.jsonl", json.dumps(LINE), r"results.jsonl:1 lacks 'problem_idx'"),
        ("nemo", "nemo-0.3/results.jsonl", '{"problem_idx": 0, "reward": null}', r"results.jsonl:1 lacks 'reward'"),
        ("nemo", "nemo-0.3/results.jsonl", '{"problem_idx": 0, "reward": 1}\n' * 2, r"holds problem 0 twice"),
        ("nemo", "nemo-0.3/eval-2.json", "{}", r"lacks 'benchmark'"),
        ("nemo", "nemo-0.2/results.yml", "a: [", r"is not YAML"),
        ("nemo", "nemo-0.2/results.yml", "config: {}\nresults: {tasks: [1]}", r"is not built as nemo builds it"),
        ("nemo", "nemo-0.2/results.jsonl", "{}", r"there are 0"),
        ("nemo", "nemo-0.2/missing.yml", None, r"cannot be read"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_one_sentence_and_nothing_lands(
    store: ScoreStore, files: Path, tool: Tool, name: str, text: str | None, said: str
) -> None:
    path = files / name if text is None else _broken(files, name, text)
    good = files / ("lm-eval" if tool == "lm-eval" else "nemo-0.2") / (RESULTS if tool == "lm-eval" else "results.yml")
    with pytest.raises(InvalidSpec, match=said) as refused:
        _take(store, tool, good, path)
    assert "\n" not in str(refused.value)
    assert not store.counts()["scores"]


def test_a_full_disk_leaves_nothing_of_it(files: Path, tmp_path: Path) -> None:
    class Full(ScoreStore):
        """Takes two files, and is full then."""

        room = 2

        def land(self, *given: Any, **named: Any) -> Path:
            if not self.room:
                raise DiskFull("no space left for scores; free some and run it again.")
            self.room -= 1
            return super().land(*given, **named)

    store = Full(tmp_path / "scores")
    with pytest.raises(DiskFull):
        _take(store, "lm-eval", files / "lm-eval" / RESULTS)
    assert not any(store.counts().values())
