"""Identities: what makes two scores comparable, and what does not."""

from typing import Any

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.samples import CHOICE_REQUEST, Sample, item_uid
from modelops_dagster.domain.gauntlet.scorers import SCORER_VERSIONS
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec


def sample(name: str = "s1", **changes: Any) -> Sample:
    meta = {"category": "a/b", "scorer": "exact", **changes.pop("metadata", {})}
    return Sample.model_validate({"id": name, "input": "Q?", "target": "A", **changes, "metadata": meta})


def spec(**changes: Any) -> SuiteSpec:
    return SuiteSpec.model_validate({"name": "q", "kind": "dataset", "title": "Q", "samples": "q.jsonl", **changes})


def instrument(suite: Suite, versions: dict[str, int] | None = None) -> str:
    return suite.instrument(suite.asked(), versions or SCORER_VERSIONS)


def test_uid_covers_what_is_asked_and_how_it_is_scored() -> None:
    base = item_uid(sample())
    assert len(base) == 64
    same = [sample("other"), sample(metadata={"category": "z", "weight": 3, "cluster": "k", "license": "CC0-1.0"})]
    assert {item_uid(s) for s in same} == {base}
    others = [
        sample(input="Q2?"),
        sample(target="B"),
        sample(input=[{"role": "user", "content": "Q?"}]),
        sample(metadata={"params": {"case_sensitive": True}}),
        sample(metadata={"scorer": "includes"}),
        sample(metadata={"max_tokens": 5}),
        sample(metadata={"stop": "."}),
        sample(metadata={"expected": "refuse"}),
    ]
    assert len({base, *map(item_uid, others)}) == len(others) + 1


def test_instrument_moves_with_everything_that_may_move_a_score() -> None:
    base = Suite(spec=spec(), samples=(sample(), sample("s2", input="R?")))
    digests = {instrument(base)}
    for changed in (
        spec(system_prompt="Be brief."),
        spec(sampling={"temperature": 0.7}),
        spec(sampling={"seed": 2}),
        spec(sampling={"epochs": 2}),
        spec(requests={"api": "completions"}),
        spec(requests={"concurrency": 5}),
        spec(limit=1),
    ):
        digests.add(instrument(base.model_copy(update={"spec": changed})))
    digests.add(instrument(base.model_copy(update={"samples": (sample(),)})))
    digests.add(instrument(base, {**SCORER_VERSIONS, "exact": 99}))
    assert len(digests) == 10


def test_instrument_stays_with_what_may_not() -> None:
    base = Suite(spec=spec(), samples=(sample(), sample("s2", input="R?")))
    for changed in (
        base.model_copy(update={"spec": spec(title="Other", description="words")}),
        base.model_copy(update={"spec": spec(requests={"attempt_timeout_s": 5, "retries": 0, "deadline_s": 9})}),
        base.model_copy(update={"samples": base.samples[::-1]}),
        base.model_copy(update={"samples": (*base.samples, sample("s3", metadata={"retired": "2"}))}),
    ):
        assert instrument(changed) == instrument(base)
    assert instrument(base, {**SCORER_VERSIONS, "set": 99}) == instrument(base)


def test_limit_is_even_over_categories_and_stable() -> None:
    samples = [sample(f"a{i}", input=f"a{i}", metadata={"category": "a"}) for i in range(20)]
    samples += [sample(f"b{i}", input=f"b{i}", metadata={"category": "b"}) for i in range(3)]
    chosen = Suite(spec=spec(limit=8), samples=tuple(samples)).asked()
    assert [s.metadata.category for s in chosen].count("b") == 3
    assert {s.id for s in Suite(spec=spec(limit=8), samples=tuple(samples[::-1])).asked()} == {s.id for s in chosen}
    more = sample("a99", input="a99", metadata={"category": "a"})
    with_more = {s.id for s in Suite(spec=spec(limit=8), samples=(*samples, more)).asked()}
    assert len({s.id for s in chosen} - with_more) <= 1


def test_splits_and_context_choose_samples() -> None:
    samples = (sample(), sample("r", metadata={"split": "reserve"}), sample("long", metadata={"min_context": 4000}))
    suite = Suite(spec=spec(), samples=samples)
    assert [s.id for s in suite.asked()] == ["s1", "long"]
    assert [s.id for s in suite.asked(2048)] == ["s1"]


def test_messages_carry_system_prompt_and_choices() -> None:
    asked = sample(choices=["Rome", "Oslo"], target="B").messages("Be brief.")
    assert asked[0] == {"role": "system", "content": "Be brief."}
    assert asked[1]["content"] == f"Q?\nA) Rome\nB) Oslo\n{CHOICE_REQUEST}"
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Q?"}]
    assert sample(input=own).messages("Be brief.") == own


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "contract"},
        {"kind": "contract", "samples": None},
        {"kind": "performance", "samples": None},
        {"samples": None},
        {"requests": {"concurency": 3}},
        {"name": "Quality!"},
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_a_subset_asks_fewer_samples_and_is_another_instrument() -> None:
    def one(name: str, added: str, split: str = "core", difficulty: int = 1) -> Sample:
        meta = {
            "category": f"{name}/x", "scorer": "includes", "added": added, "split": split, "difficulty": difficulty,
        }  # fmt: skip
        return Sample.model_validate({"id": name, "input": name, "target": "t", "metadata": meta})

    samples = (one("a", "1"), one("b", "2"), one("c", "1", "reserve"), one("d", "1", difficulty=4))
    spec = {
        "name": "q", "kind": "dataset", "title": "Q", "samples": "q.jsonl",
        "subsets": {
            "brief": {"added": ["1"]}, "easy": {"max_difficulty": 2}, "extra": {"splits": ["reserve"]},
            "b": {"categories": ["b"]},
        },
    }  # fmt: skip
    suite = Suite(spec=SuiteSpec.model_validate(spec), samples=samples)
    asked = {name: [s.id for s in suite.subset(name).asked()] for name in suite.spec.subsets}
    assert asked == {"brief": ["a", "d"], "easy": ["a", "b"], "extra": ["c"], "b": ["b"]}
    assert suite.subset("brief").digest != suite.digest
    assert suite.subset("brief").name == "q"
    bare = Suite(spec=SuiteSpec.model_validate({**spec, "subsets": {}}), samples=samples)
    assert bare.digest == suite.digest, "naming a subset changes nothing that is asked"
    with pytest.raises(InvalidSpec, match=r"has no subset 'nope'; it has: brief, easy, extra, b"):
        suite.subset("nope")
