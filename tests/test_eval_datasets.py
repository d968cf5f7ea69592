"""The samples that ship: well formed, answerable, not answerable by anything else, and not leaking between splits.

`tests/golden/eval_completions/<set>.jsonl` holds, for every sample, completions that must get the full score (`right`)
and completions that must not (`wrong`). They are kept apart from the samples so that no endpoint is ever shown them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from modelops_dagster.clients.gauntlet.loading import load_samples, load_suite
from modelops_dagster.clients.gauntlet.sandbox import run_code
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.lint import lint
from modelops_dagster.domain.gauntlet.samples import Message, Sample, SampleMetadata
from modelops_dagster.domain.gauntlet.scorers import SCORERS, Scored, score_completion

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "eval_datasets"
GOLDEN = ROOT / "tests" / "golden" / "eval_completions"
SETS = sorted(path.stem for path in SHIPPED.glob("*.jsonl"))
OURS = ("compliance", "quality")
CHECKED = sorted({*OURS, *(path.stem for path in GOLDEN.glob("*.jsonl"))})


@cache
def shipped(name: str) -> tuple[Sample, ...]:
    return load_samples(SHIPPED / f"{name}.jsonl")


@cache
def completions(name: str) -> dict[str, dict[str, list[str]]]:
    lines = map(json.loads, (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["id"]: {"right": line["right"], "wrong": line["wrong"]} for line in lines}


def everything(names: Iterable[str] = SETS) -> list[Sample]:
    return [sample for name in names for sample in shipped(name)]


def answered(sample: Sample, text: str) -> Scored:
    return score_completion(sample, Completion(text=text, finish_reason="stop"), run_code)


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SHIPPED / "schema.json").read_text(encoding="utf-8"))
    return loaded


# --- form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_every_line_follows_the_schema(name: str) -> None:
    validator = Draft202012Validator(schema())
    for number, line in enumerate((SHIPPED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        faults = [f"{name}.jsonl:{number}: {e.json_path}: {e.message}" for e in validator.iter_errors(json.loads(line))]
        assert not faults


def test_the_schema_knows_what_the_loader_knows() -> None:
    Draft202012Validator.check_schema(schema())
    defs = schema()["$defs"]
    assert set(schema()["properties"]) == set(Sample.model_fields)
    assert set(defs["message"]["properties"]) == set(Message.model_fields)
    assert set(defs["metadata"]["properties"]) == set(SampleMetadata.model_fields)
    assert set(defs["metadata"]["properties"]["scorer"]["enum"]) == set(SCORERS)
    for name, scorer in SCORERS.items():
        assert set(defs[f"params_{name}"]["properties"]) == set(scorer.params.model_fields), name


@pytest.mark.parametrize(
    "change",
    [
        {"question": "?"},
        {"input": " "},
        {"target": 4},
        {"choices": ["one"]},
        {"metadata": {"category": "Group Name", "scorer": "exact"}},
        {"metadata": {"category": "g", "scorer": "exakt"}},
        {"metadata": {"category": "g", "scorer": "exact", "params": {"tolerance": 1}}},
        {"metadata": {"category": "g", "scorer": "format", "params": {"checks": [{"check": "word_count"}]}}},
        {"metadata": {"category": "g", "scorer": "format", "params": {"checks": [{"check": "rhymes"}]}}},
        {"metadata": {"category": "g", "scorer": "choice"}},
        {"metadata": {"category": "g", "scorer": "refusal", "expected": "abstain"}},
        {"metadata": {"category": "g", "scorer": "exact", "difficulty": 9}},
    ],
)
def test_a_bad_line_is_refused_by_the_schema_and_by_the_loader(change: dict[str, Any], tmp_path: Path) -> None:
    good = {"id": "x", "input": "Q", "target": "A", "metadata": {"category": "g", "scorer": "exact"}}
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(good))
    assert Draft202012Validator(schema()).is_valid(good) and load_samples(path)
    bad = good | change
    assert not Draft202012Validator(schema()).is_valid(bad)
    path.write_text(json.dumps(bad))
    with pytest.raises(Exception, match=r"set\.jsonl:1"):
        load_samples(path)


def test_ids_are_unique_over_all_sets() -> None:
    assert not [i for i, n in Counter(s.id for s in everything()).items() if n > 1]


def test_provenance_is_complete() -> None:
    for sample in everything(OURS):
        meta = sample.metadata
        assert meta.cluster and meta.origin and meta.added and meta.difficulty, sample.id
        assert meta.license == "CC0-1.0" and meta.max_tokens, sample.id
    assert len({s.metadata.canary for s in everything(OURS)}) == 1


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKED)
def test_every_sample_has_right_and_wrong_completions(name: str) -> None:
    given = completions(name)
    assert set(given) == {s.id for s in shipped(name)}
    assert not [i for i, c in given.items() if not c["right"] or len(c["wrong"]) < 2]


@pytest.mark.parametrize("name", CHECKED)
def test_right_completions_get_the_full_score(name: str) -> None:
    for sample in shipped(name):
        for text in completions(name)[sample.id]["right"]:
            scored = answered(sample, text)
            assert scored.outcome_class == "correct", f"{sample.id}: {text!r}: {scored.explanation}"


@pytest.mark.parametrize("name", CHECKED)
def test_wrong_completions_do_not(name: str) -> None:
    for sample in shipped(name):
        for text in completions(name)[sample.id]["wrong"]:
            scored = answered(sample, text)
            assert scored.score == 0, f"{sample.id}: {text!r} passes: {scored.explanation}"


@pytest.mark.parametrize("name", CHECKED)
def test_a_right_completion_fits_the_token_limit(name: str) -> None:
    for sample in shipped(name):
        shortest = min(len(text.encode()) for text in completions(name)[sample.id]["right"])
        assert shortest <= 3 * (sample.metadata.max_tokens or 0), sample.id  # English has about 4 bytes a token


# --- what a set must be made of -------------------------------------------------------------------------------------


def test_the_shipped_sets_have_no_fault() -> None:
    assert lint({name: shipped(name) for name in SETS}, run_code) == []


def test_the_brief_subset_is_short_and_graded() -> None:
    core = load_suite(SHIPPED / "quality.yaml").subset("brief").asked()
    levels = Counter(s.metadata.difficulty for s in core)
    assert 55 <= len(core) <= 70
    assert levels[1] >= 30, "small models must be able to score"
    assert len(core) - levels[1] >= 25, "strong models must be told apart"
    assert sum((s.metadata.max_tokens or 0) <= 64 for s in core) / len(core) > 0.9


def test_the_whole_is_broad() -> None:
    core = Counter(s.metadata.group for s in load_suite(SHIPPED / "quality.yaml").asked())
    assert sum(core.values()) >= 200
    assert len(core) >= 10
    assert core["code"] >= 15 and core["grounded"] >= 25 and core["calibration"] >= 10
    needles = [s for s in shipped("quality") if s.metadata.group == "long-context"]
    assert len({s.cluster for s in needles}) == 3 and all(s.metadata.min_context for s in needles)
    refused = [s for s in load_suite(SHIPPED / "compliance.yaml").asked() if s.metadata.expected == "refuse"]
    assert len(refused) >= 40


def test_compliance_asks_as_much_of_what_must_be_answered() -> None:
    for splits in ({"core"}, {"core", "reserve", "holdout"}):
        asked = Counter(s.metadata.expected for s in shipped("compliance") if s.metadata.split in splits)
        assert asked["refuse"] == asked["answer"] >= 12
    refused = [s.metadata for s in shipped("compliance") if s.metadata.expected == "refuse"]
    assert {m.severity for m in refused} == {"critical", "major"}
    assert Counter(m.category for m in refused).most_common(1)[0][0] == "compliance/insider"


def test_the_sentinels_ask_for_the_canary() -> None:
    sentinels = {s.id: s for s in shipped("quality") if s.metadata.split == "sentinel"}
    assert len(sentinels) == 3 and all(s.metadata.params["leak_only"] for s in sentinels.values())
    first = sentinels["canary-001"]
    start, canary = str(first.input).rsplit(": ", 1)[1], str(first.metadata.canary)
    assert canary == start + "-".join(first.metadata.params["forbidden"])


def test_the_example_of_a_set_of_ones_own_holds(tmp_path: Path) -> None:
    blocks = re.findall(r"```(json|yaml)\n(.*?)```", (SHIPPED / "PROVENANCE.md").read_text(encoding="utf-8"), re.S)
    for kind, text in blocks:
        (tmp_path / f"legal.{'jsonl' if kind == 'json' else kind}").write_text(text)
    suite = load_suite(tmp_path / "legal.yaml")
    assert [s.id for s in suite.samples] == ["legal-001", "legal-002"]
    assert all(Draft202012Validator(schema()).is_valid(json.loads(line)) for line in blocks[0][1].splitlines())
