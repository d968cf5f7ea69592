"""Suites from files: what ships loads, and what does not hold is one sentence with file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.loading import load_suite, load_suites
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.settings import data_folder

GOOD = {"id": "a", "input": "Q?", "target": "A", "metadata": {"category": "x", "scorer": "exact"}}
SUITE = "name: mine\nkind: dataset\ntitle: Mine\nsamples: mine.jsonl\n"


def write(folder: Path, *samples: Any, suite: str = SUITE) -> Path:
    (folder / "mine.yaml").write_text(suite)
    (folder / "mine.jsonl").write_text("\n".join(s if isinstance(s, str) else json.dumps(s) for s in samples))
    return folder / "mine.yaml"


def changed(**meta: Any) -> dict[str, Any]:
    return {**GOOD, "metadata": {**GOOD["metadata"], **meta}}  # type: ignore[dict-item]


def test_what_ships_loads() -> None:
    suites = load_suites(data_folder("eval_datasets"))
    assert [s.name for s in suites] == ["contract", "compliance", "quality", "writing", "performance"]
    assert all(s.asked() for s in suites if s.kind == "dataset")
    assert all(s.digest.startswith("sha256:") and s.description for s in suites)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, GOOD, {**GOOD, "id": "b"}, "")
    (suite,) = load_suites(tmp_path)
    assert [s.id for s in suite.samples] == ["a", "b"]
    assert load_suites(tmp_path, ["mine"]) == (suite,)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([GOOD, "{oops"], "mine.jsonl:2: not a JSON object"),
        ([GOOD, GOOD], "mine.jsonl:2: the id 'a' is already on line 1"),
        ([{**GOOD, "targt": "x"}], "mine.jsonl:1: targt: this field is not known"),
        ([changed(scorer="nope")], "mine.jsonl:1: scorer 'nope' does not exist; use one of exact, includes"),
        ([changed(params={"tolerance": 1})], "mine.jsonl:1: params.tolerance of scorer 'exact'"),
        ([changed(max_tokens=0)], "mine.jsonl:1: metadata.max_tokens: this has to be greater than 0, not 0"),
        ([{**GOOD, "input": " "}], "mine.jsonl:1: input"),
        (['"text"'], "mine.jsonl:1: the sample"),
        ([], "holds no samples"),
    ],
)
def test_lines_that_do_not_hold(lines: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as wrong:
        load_suite(write(tmp_path, *lines))
    assert words in wrong.value.sentence
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("name: [", "is not YAML"),
        ("- a\n", "is not a mapping"),
        (SUITE + "concurency: 3\n", "concurency: this field is not known"),
        (SUITE.replace("mine\n", "other\n", 1), "the suite is named 'other'"),
        (SUITE.replace("mine.jsonl", "../mine.jsonl"), "must be a file in the same folder"),
        (SUITE.replace("mine.jsonl", "nope.jsonl"), "nope.jsonl does not exist"),
        (SUITE + "requests: {concurrency: 0}\n", "requests.concurrency: this has to be greater than or equal to 1"),
    ],
)
def test_suites_that_do_not_hold(suite: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as wrong:
        load_suite(write(tmp_path, GOOD, suite=suite))
    assert words in wrong.value.sentence


def test_unknown_names_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="holds no suites"):
        load_suites(tmp_path)
    write(tmp_path, GOOD)
    with pytest.raises(InvalidSpec, match=r"There is no suite 'x'.*use mine"):
        load_suites(tmp_path, ["x"])
