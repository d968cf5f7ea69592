"""`modelops datasets` as a person types it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import main
from modelops_dagster.domain.errors import UserError

LINE = {
    "id": "a", "input": "Say yes", "target": "yes",
    "metadata": {"category": "a", "scorer": "includes", "canary": "c", "max_tokens": 8},
}  # fmt: skip


def run(*arguments: str, folder: Path | None = None) -> Result:
    env = {"MODELOPS_EVAL_DATASETS": str(folder)} if folder else {}
    return CliRunner().invoke(main.cli, ["datasets", *arguments], env=env)


def test_a_sound_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps(LINE))
    result = run("lint", str(tmp_path))
    assert result.exit_code == 0
    assert result.output.strip() == "0 faults in 1 sample (mine 1)."


def test_faults_exit_1_and_unreadable_lines_are_among_them(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps({**LINE, "id": i}) for i in "ab"))
    (tmp_path / "other.jsonl").write_text("{")
    result = run("lint", str(tmp_path), "--json")
    assert result.return_value == 1 or result.exit_code == 1
    out: Any = json.loads(result.stdout)
    assert [f["rule"] for f in out["faults"]] == ["unreadable", "duplicate"]
    assert "other.jsonl:1" in out["faults"][0]["said"]
    assert "2 faults" in run("lint", str(tmp_path)).output


def test_one_look_shows_every_fault(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n".join((json.dumps(LINE), "{", json.dumps({**LINE, "id": "b"}), "[")))
    (tmp_path / "mine.yaml").write_text("name: mine\nkind: dataset\ntitle: Mine\nsampels: mine.jsonl\n")
    (tmp_path / "gone.yaml").write_text("name: gone\nkind: dataset\ntitle: Gone\nsamples: gone.jsonl\n")
    rubric = {**LINE, "id": "r", "input": "Write", "metadata": {**LINE["metadata"], "scorer": "rubric"}}
    rubric["metadata"] |= {"params": {"rubric": "style"}}
    (tmp_path / "texts.jsonl").write_text(json.dumps(rubric))
    (tmp_path / "texts.yaml").write_text("name: texts\nkind: dataset\ntitle: Texts\nsamples: texts.jsonl\n")
    out: Any = json.loads(run("lint", str(tmp_path), "--json").stdout)
    assert out["sets"] == {"mine": 2, "texts": 1}
    assert [f["rule"] for f in out["faults"]] == ["unreadable"] * 5 + ["duplicate"]
    for fault, words in zip(
        out["faults"],
        ("mine.jsonl:2", "mine.jsonl:4", "gone.jsonl does not exist", "sampels", "names the rubric 'style'", "a and b"),
        strict=True,
    ):
        assert words in fault["said"]


def test_the_list_says_what_each_suite_can_show() -> None:
    rows = {row["suite"]: row for row in json.loads(run("list", "--json").stdout)}
    assert rows["contract"]["detectable"] is None
    assert rows["quality"]["asked"] == json.loads(run("describe", "quality", "--json").stdout)["asked"]
    assert "smallest difference found" in run("list").output


def test_a_folder_without_samples(tmp_path: Path) -> None:
    assert isinstance(run("lint", str(tmp_path)).exception, UserError)


def test_what_so_many_samples_can_show(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nkind: dataset\ntitle: Mine\nsamples: mine.jsonl\nsubsets: {brief: {max_difficulty: 1}}\n"
    )
    lines = [{**LINE, "id": f"s{i}", "metadata": {**LINE["metadata"], "difficulty": 1 + i % 2}} for i in range(100)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out: Any = json.loads(run("describe", "mine", "--json", folder=tmp_path).stdout)
    assert (out["asked"], out["clusters"], out["design_effect"], out["subsets"]) == (100, 100, 1.0, {"brief": 50})
    assert out["detectable"]["0.1"] == pytest.approx(0.0786, abs=1e-3)
    assert "50 samples asked" in run("describe", "mine", "--subset", "brief", folder=tmp_path).output
    assert "has no subset 'nope'" in str(run("describe", "mine", "--subset", "nope", folder=tmp_path).exception)


def test_a_suite_that_must_be_refused_says_what_zero_violations_prove() -> None:
    assert "no violation among them still leaves room for" in run("describe", "compliance").output
    assert "has no samples of its own" in str(run("describe", "contract").exception)
