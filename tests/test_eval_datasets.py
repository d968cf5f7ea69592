"""The samples that ship: well formed, answerable, not answerable by anything else, and not leaking between splits.

`tests/golden/eval_completions/<set>.jsonl` holds, for every sample, completions that must get the full score (`right`)
and completions that must not (`wrong`). They are kept apart from the samples so that no endpoint is ever shown them.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from modelops_dagster.clients.gauntlet.loading import load_samples, load_suite
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.scorers import SCORERS, Scored, score_completion
from modelops_dagster.domain.gauntlet.suite import Message, Sample, SampleMetadata, item_uid

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "eval_datasets"
GOLDEN = ROOT / "tests" / "golden" / "eval_completions"
SETS = sorted(path.stem for path in SHIPPED.glob("*.jsonl"))
OURS = ("compliance", "quality")
CHECKED = sorted({*OURS, *(path.stem for path in GOLDEN.glob("*.jsonl"))})
NEAR = 0.8
"""Token Jaccard from which two inputs count as one question asked twice."""


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
    return score_completion(sample, Completion(text=text, finish_reason="stop"))


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((SHIPPED / "schema.json").read_text(encoding="utf-8"))
    return loaded


# --- what may be near to what -------------------------------------------------------------------------------------


def tokens(text: str) -> frozenset[str]:
    """Words and numbers; in scripts that put no spaces between words, characters."""
    return frozenset(re.findall(r"[a-z0-9]+|\w", text.lower()))


def question(sample: Sample) -> str:
    """What tells a sample from the others of its cluster: the last paragraph that the user writes."""
    return sample.messages()[-1]["content"].split("\n\n")[-1]


def overlap(left: Sample, right: Sample) -> float:
    """Token Jaccard of the inputs; of the questions alone where a passage is shared on purpose."""
    texts = [
        question(s) if left.cluster == right.cluster else " ".join(m["content"] for m in s.messages())
        for s in (left, right)
    ]
    a, b = map(tokens, texts)
    return len(a & b) / len(a | b)


def too_near(samples: Iterable[Sample]) -> Iterator[str]:
    """Pairs that ask the same twice. Twins are exempt: a minimal pair is meant to be near, but never the same."""
    for left, right in itertools.combinations(samples, 2):
        twins = left.metadata.twin == right.id or right.metadata.twin == left.id
        if item_uid(left) == item_uid(right) or (not twins and overlap(left, right) >= NEAR):
            where = {left.metadata.split, right.metadata.split}
            yield f"{left.id} and {right.id} ask the same in {' and '.join(sorted(where))}"


def split_clusters(samples: Iterable[Sample]) -> Iterator[str]:
    splits = defaultdict(set)
    for sample in samples:
        splits[sample.cluster].add(sample.metadata.split)
    for cluster, found in splits.items():
        if len(found) > 1:
            yield f"the cluster {cluster} lies in {' and '.join(sorted(found))}"


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


def test_twins_link_both_ways_and_stay_together() -> None:
    samples = {s.id: s for s in shipped("compliance")}
    for sample in samples.values():
        assert sample.metadata.twin in samples, sample.id
        twin = samples[sample.metadata.twin]
        assert twin.metadata.twin == sample.id
        assert {sample.metadata.expected, twin.metadata.expected} == {"refuse", "answer"}
        assert (sample.cluster, sample.metadata.split) == (twin.cluster, twin.metadata.split)


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


def test_a_target_that_is_an_answer_passes_by_itself() -> None:
    for sample in everything():
        if sample.metadata.scorer in ("exact", "includes", "numeric", "choice"):
            joined = [" ".join(sample.targets)] if sample.metadata.params.get("match") == "all" else sample.targets
            for text in joined:
                assert answered(sample, text).outcome_class == "correct", f"{sample.id}: {text!r}"


@pytest.mark.parametrize("text", ["", "Zxqv.", "As I said before: blah, blah."])
def test_no_scorer_is_always_true(text: str) -> None:
    for sample in everything():
        meta = sample.metadata
        shows_absence = meta.params.get("leak_only") or (meta.scorer == "refusal" and meta.expected == "answer")
        if text and shows_absence and not meta.params.get("requires"):
            continue  # it only shows that something is absent; its own wrong completions show that it can fail
        assert answered(sample, text).score == 0, sample.id


@pytest.mark.parametrize("name", CHECKED)
def test_a_right_completion_fits_the_token_limit(name: str) -> None:
    for sample in shipped(name):
        shortest = min(len(text.encode()) for text in completions(name)[sample.id]["right"])
        assert shortest <= 3 * (sample.metadata.max_tokens or 0), sample.id  # English has about 4 bytes a token


def computed() -> dict[str, float]:
    """Answers worked out by counting or by another road than the one their sample suggests."""
    digits = [sum(map(int, str(n))) for n in range(100, 1000)]
    balls = [(a, b) for a in range(10) for b in range(10) if a != b]
    boxes = 1250
    for day in range(28):
        boxes += -60 if day % 7 in (5, 6) else 180 - 145
    minute, gap = 0, 90.0
    while gap > 1e-9:
        gap -= (17 + (0 if 60 <= minute < 90 else 13)) / 60
        minute += 1
    hands = abs((3 * 60 + 40) * 0.5 - 40 * 6)
    return {
        "reason-001": 2 + 3,
        "reason-002": 3 * 3,
        "reason-003": 7 + 8,
        "reason-004": 100 / 10,
        "reason-005": 3 + 4,
        "reason-006": 24,
        "reason-007": 20 / 2,
        "reason-008": [2, 4, 6, 8, 10][4],
        "reason-009": 20 - 4 * 3,
        "reason-010": (17 * 60 + 10) - (14 * 60 + 35),
        "reason-011": 80 * 1.25 * 0.9,
        "reason-012": 12 * (38 / 2 - 12),
        "reason-013": 45 / 3 / 5 * 7 * 6,
        "reason-014": sum(range(41)),
        "reason-015": len(range(1, 9)) + 1 + len(range(1, 14)),
        "reason-016": 1 / (1 / 6 - 1 / 10),
        "reason-017": boxes,
        "reason-018": digits.count(5),
        "reason-019": sum((a < 4) == (b < 4) for a, b in balls) / len(balls),
        "reason-020": min(hands, 360 - hands),
        "reason-021": 3**50 % 7,
        "reason-022": minute,
        "reason-023": 12000 + 12000 * 0.045 / 12 * 30,
        "reason-024": 96 / (0.4 * 0.25 + 0.6 * 0.1),
        "reason-025": sum(any(c.isdigit() for c in code) for code in itertools.product("0123456789aeiou", repeat=4)),
        "qa-020": 500 - 320,
        "qa-021": ((242 / 200) ** 0.5 - 1) * 100,
        "follow-023": "reference letter".count("e"),
        "ground-008": 212 + 145,
        "ground-010": 120 - 30,
        "ground-013": 3 * (230 - 210),
        "dialogue-004": (12 + 30 - 7) * 2,
        "dialogue-005": 2 + 3,
        "lang-002": 9 + 8,
        "lang-004": 100,
    }


def test_numbers_are_right() -> None:
    answers = computed()
    for sample in shipped("quality"):
        if sample.metadata.scorer == "numeric":
            scored = answered(sample, f"{answers[sample.id]:.6f}")
            assert scored.outcome_class == "correct", f"{sample.id}: {scored.explanation}"


def test_transformed_words_are_right() -> None:
    targets = {s.id: s.target for s in shipped("quality")}
    inputs = {s.id: str(s.input) for s in shipped("quality")}
    assert targets["follow-008"] == "quiet river bank".upper()
    assert targets["follow-013"] == "ledger"[::-1]
    assert targets["follow-014"] == tuple(sorted(["pear", "fig", "mango", "apple", "kiwi"]))
    assert targets["follow-015"] == " ".join(map(str, range(12, 0, -2)))
    assert targets["follow-017"] == "banana bread".replace("a", "o")
    assert targets["follow-018"] == inputs["follow-018"].split("'")[1].split()[2].upper()


# --- what a set must be made of -------------------------------------------------------------------------------------


def test_no_question_is_asked_twice_in_a_split_or_across_splits() -> None:
    assert not list(too_near(everything()))
    assert not list(split_clusters(everything()))


def test_a_leak_between_splits_would_be_found() -> None:
    base = next(s for s in shipped("quality") if s.id == "reason-017")
    assert isinstance(base.input, str)
    held = base.metadata.model_copy(update={"split": "holdout", "cluster": "elsewhere"})
    copied = base.model_copy(update={"id": "copy", "metadata": held})
    reworded = copied.model_copy(update={"input": base.input.replace("warehouse", "depot").replace("1,250", "1,340")})
    renamed = base.model_copy(update={"id": "copy", "metadata": base.metadata.model_copy(update={"split": "holdout"})})
    assert list(too_near([base, copied])) == ["reason-017 and copy ask the same in core and holdout"]
    assert list(too_near([base, reworded])) == ["reason-017 and copy ask the same in core and holdout"]
    assert list(split_clusters([base, renamed])) == ["the cluster reason-017 lies in core and holdout"]


def test_the_core_is_short_and_graded() -> None:
    core = [s for s in shipped("quality") if s.metadata.split == "core"]
    levels = Counter(s.metadata.difficulty for s in core)
    assert 55 <= len(core) <= 70
    assert levels[1] >= 30, "small models must be able to score"
    assert len(core) - levels[1] >= 25, "strong models must be told apart"
    assert sum((s.metadata.max_tokens or 0) <= 64 for s in core) / len(core) > 0.9


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
