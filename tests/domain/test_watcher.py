"""What counts as a release: the set of commits, not their dates."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.watcher import RepoListing, WatcherState, detect, is_complete, obstacle_to

WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


def repo(name: str = "one", commit: int = 1, files: tuple[str, ...] = WHOLE, **fields: Any) -> RepoListing:
    return RepoListing(repo_id=f"acme/{name}", commit_hash=f"{commit:040x}", files=files, **fields)


def watch(*ticks: list[RepoListing]) -> list[list[tuple[str, str, str]]]:
    """Run tick after tick through JSON, as a cursor does. Returns (repo_id, decision, reason) per tick."""
    cursor = WatcherState().model_dump_json()
    told = []
    for listing in ticks:
        state, found = detect(WatcherState.model_validate_json(cursor), "acme", listing)
        cursor = state.model_dump_json()
        told.append([(d.repo_id, d.decision, d.reason) for d in found])
    return told


def test_the_first_listing_is_the_baseline():
    told = watch([repo("a"), repo("b")], [repo("a"), repo("b")], [repo("a"), repo("b"), repo("c")])
    assert told == [
        [("acme/a", "skip", "baseline"), ("acme/b", "skip", "baseline")],
        [],
        [("acme/c", "onboard", "new repository")],
    ]


def test_an_empty_organisation_is_a_baseline_too():
    assert watch([], [repo()]) == [[], [("acme/one", "onboard", "new repository")]]


def test_each_organisation_has_a_baseline_of_its_own():
    state, _ = detect(WatcherState(), "acme", [repo()])
    state, found = detect(state, "other", [RepoListing(repo_id="other/x", commit_hash="1" * 40, files=WHOLE)])
    assert [d.reason for d in found] == ["baseline"]
    assert set(state.orgs) == {"acme", "other"}


def test_a_re_upload_is_onboarded_and_a_return_to_an_old_commit_is_not():
    told = watch([repo(commit=1)], [repo(commit=2)], [repo(commit=1)], [repo(commit=2)], [repo(commit=3)])
    assert told[1] == [("acme/one", "onboard", "new commit")]
    assert told[2] == told[3] == []
    assert told[4] == [("acme/one", "onboard", "new commit")]


def test_a_repository_that_is_filled_later_waits_for_its_weights():
    told = watch(
        [],
        [repo(commit=1, files=(".gitattributes",))],
        [repo(commit=2, files=("config.json",))],
        [repo(commit=3, files=("config.json", "model-00001-of-00002.safetensors"))],
        [repo(commit=4, files=("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"))],
    )
    assert told == [[], [], [], [], [("acme/one", "onboard", "new repository")]]


def test_one_that_was_empty_at_the_baseline_is_a_release_when_it_is_filled():
    told = watch([repo(commit=1, files=())], [repo(commit=2)])
    assert told == [[], [("acme/one", "onboard", "new repository")]]


def test_a_repository_that_goes_away_and_comes_back_unchanged_is_not_new():
    assert watch([repo("a"), repo("b")], [repo("a")], [repo("a"), repo("b")])[1:] == [[], []]


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (repo(disabled=True), "disabled"),
        (repo(files=("adapter_config.json", "adapter_model.safetensors")), "adapter"),
        (repo(tags=("base_model:adapter:acme/base",)), "adapter"),
        (repo(files=("model.gguf", "config.json")), "no safetensors, only GGUF"),
        (repo(files=("pytorch_model.bin", "config.json")), "no safetensors, only PyTorch pickle"),
        (repo(tags=("base_model:quantized:acme/base",)), "quantized"),
        (repo("Model-7B-FP8"), "'-FP8'"),
        (repo("Model-7B-AWQ-v2"), "quantized"),
        (repo("model-7b-w4a16"), "quantized"),
        (repo("model-7b-mlx-4bit"), "quantized"),
        (repo("Model-7B-FP8-Dynamic"), "quantized"),
        (repo(pipeline_tag="feature-extraction"), "feature-extraction is not served"),
    ],
)
def test_what_is_not_a_model_of_its_own_is_skipped_with_the_reason(listing: RepoListing, words: str):
    told = watch([], [listing], [listing])
    assert [(d, words in r) for _, d, r in told[1]] == [("skip", True)], told
    assert told[2] == []


@pytest.mark.parametrize("name", ["gpt-oss-120b", "DeepSeek-V3", "Qwen3-8B", "fp8ish-model", "Kimi-K2-Instruct-0905"])
def test_ordinary_names_are_not_taken_for_quantized(name: str):
    assert obstacle_to(repo(name, pipeline_tag="text-generation", gated=True)) is None


def test_mistrals_own_layout_is_complete():
    assert is_complete(repo(files=("params.json", "consolidated.safetensors", "tekken.json")))
    assert not is_complete(repo(files=("model.safetensors",)))


names = st.sampled_from(["a", "b", "c", "d"])
listings = st.dictionaries(names, st.integers(0, 5), max_size=4)


@given(st.lists(listings, min_size=1, max_size=8))
def test_every_commit_after_the_baseline_is_onboarded_exactly_once(ticks: list[dict[str, int]]):
    told = watch(*([repo(n, c) for n, c in tick.items()] for tick in ticks))
    decided = [d for tick in told[1:] for d in tick]
    later = {(n, c) for tick in ticks[1:] for n, c in tick.items()} - set(ticks[0].items())
    assert len(decided) == len(later)
    assert all(decision == "onboard" for _, decision, _ in decided)
