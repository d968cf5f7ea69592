"""What counts as a release: the set of commits, not their dates."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.listings import RepoContent, RepoListing, is_complete, obstacle_to
from modelops_dagster.domain.watcher import BELIEVED_AFTER_READS, OrgState, Reading, detect, questions
from modelops_dagster.domain.watchlist import OrgWatch

WHOLE = ("config.json", "model.safetensors", "tokenizer.json")


def sha(commit: int) -> str:
    return f"{commit:012x}".ljust(40, "0")


def repo(name: str = "one", commit: int = 1, files: tuple[str, ...] = WHOLE, **fields: Any) -> RepoListing:
    return RepoListing(repo_id=f"acme/{name}", commit_hash=sha(commit), files=files, **fields)


class Told(list[tuple[str, str, str]]):
    """(repo_id, decision, reason) of what one read decided, and the whole reading."""

    reading: Reading


def watch(
    *ticks: list[RepoListing], contents: dict[int, str] | None = None, wanted: OrgWatch | None = None, **content: Any
) -> list[Told]:
    """Read after read through JSON, as on disk. A commit's content is its number, or what `contents` says of it."""
    stored: str | None = None
    told = []
    for listing in ticks:
        state = OrgState.model_validate_json(stored) if stored is not None else None
        asked = questions(state, listing, wanted)
        answers = {q: RepoContent(digest=(contents or {}).get(int(q[1][:12], 16), q[1]), **content) for q in asked}
        reading = detect(state, "acme", listing, answers, wanted)
        stored = reading.state.model_dump_json(by_alias=True, exclude_defaults=True)
        told.append(Told((d.repo_id, d.decision, d.reason) for d in reading.detections))
        told[-1].reading = reading
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
    reading = detect(None, "other", [RepoListing(repo_id="other/x", commit_hash="1" * 40, files=WHOLE)])
    assert [d.reason for d in reading.detections] == ["baseline"]


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


def reasons(told: Told) -> list[str]:
    return [d.reason for d in told.reading.waiting]


def test_what_can_change_without_a_commit_is_waited_for():
    told = watch([], [repo(disabled=True)], [repo(disabled=True)], [repo()])
    assert [reasons(t) for t in told[1:3]] == [["waiting: disabled on the Hub"]] * 2
    assert told[3] == [("acme/one", "onboard", "new repository")]


def test_a_gated_repository_is_onboarded_when_it_is_opened_or_access_is_granted():
    shut = watch([], [repo(gated=True)], [repo(gated=True)], readable=False)
    assert shut[2] == []
    assert "gated" in reasons(shut[2])[0]
    opened = detect(shut[2].reading.state, "acme", [repo()], {("acme/one", sha(1)): RepoContent(digest="1")})
    assert [d.decision for d in opened.detections] == ["onboard"]
    assert watch([], [repo(gated=True)])[1] == [("acme/one", "onboard", "new repository")]


def test_a_release_counts_from_the_read_that_first_listed_its_commit():
    """However long it was waited for; an upload in several commits counts from the one that is onboarded."""
    half = ("config.json",)
    listings = [
        [],
        [repo(files=half)],
        [repo(commit=2, files=half)],
        [repo(commit=2)],
        [repo(commit=3)],
        [repo(commit=4)],
    ]
    stored, seen = OrgState().model_dump_json(), []
    for day, listing in enumerate(listings, 1):
        state = OrgState.model_validate_json(stored)
        known = {} if day == 5 else {q: RepoContent(digest=q[1]) for q in questions(state, listing)}
        reading = detect(state, "acme", listing, known, now=datetime(2026, 1, day, tzinfo=UTC))
        stored = reading.state.model_dump_json(by_alias=True, exclude_defaults=True)
        seen += [(day, d.commit_hash[11], d.first_seen and d.first_seen.day) for d in reading.detections]
    assert seen == [(4, "2", 3), (6, "4", 6)]
    assert '"w"' not in stored, "nothing is awaited any more"


def test_a_change_of_documents_only_is_no_release():
    told = watch(
        [repo(commit=1)], [repo(commit=2)], [repo(commit=3)], [repo(commit=4)], contents={1: "a", 2: "a", 3: "a"}
    )
    assert [t[0][1] for t in told] == ["skip", "skip", "skip", "onboard"]
    assert told[1][0][2].startswith("documents only")


def test_only_new_commits_are_looked_into_and_the_one_before_once():
    first = watch([repo("a"), repo("b")])[0].reading.state
    assert questions(None, [repo("a")]) == []
    assert questions(first, [repo("a"), repo("b")]) == []
    assert questions(first, [repo("a", 2), repo("b")]) == [("acme/a", sha(2)), ("acme/a", sha(1))]
    second = watch([repo("a"), repo("b")], [repo("a", 2), repo("b")])[1].reading.state
    assert questions(second, [repo("a", 3), repo("b")]) == [("acme/a", sha(3))]


def test_a_commit_whose_files_could_not_be_read_stays_undecided():
    state = watch([])[0].reading.state
    reading = detect(state, "acme", [repo()], {})
    assert reading.detections == []
    assert "could not be read" in reading.waiting[0].reason
    assert questions(reading.state, [repo()]) == [("acme/one", sha(1))]


def test_an_earlier_commit_that_is_gone_from_the_hub_is_nothing_to_compare_with():
    state = watch([repo(commit=1)])[0].reading.state
    new, old = (("acme/one", sha(n)) for n in (2, 1))
    reading = detect(state, "acme", [repo(commit=2)], {new: RepoContent(digest="x"), old: None})
    assert [d.decision for d in reading.detections] == ["onboard"]


def test_a_fix_of_what_was_skipped_is_a_release_even_if_only_the_card_changed():
    wrong, right = repo(commit=1, pipeline_tag="feature-extraction"), repo(commit=2, pipeline_tag="text-generation")
    told = watch([], [wrong], [right], contents={1: "a", 2: "a"})
    assert [t[0][1] for t in told[1:]] == ["skip", "onboard"]


def test_a_renamed_repository_is_not_a_release():
    told = watch([repo("a", hub_id="1"), repo("b", hub_id="2")], *[[repo("c", hub_id="1"), repo("b", hub_id="2")]] * 3)
    assert [(r, d) for r, d, _ in told[1]] == [("acme/c", "skip")]
    assert "renamed from acme/a" in told[1][0][2]
    assert told[2] == told[3] == []
    again = watch([repo("a", hub_id="1")], [repo("c", 2, hub_id="1")])
    assert again[1] == [("acme/c", "onboard", "new commit")]


def test_a_renamed_repository_that_is_deleted_is_withdrawn_under_every_name_that_a_route_may_bear():
    first, second = [repo("a", 1, hub_id="1"), repo("x", hub_id="9")], [repo("b", 1, hub_id="1"), repo("x", hub_id="9")]
    told = watch(first, second, [repo("x", hub_id="9")], [repo("x", hub_id="9")])
    assert [(r, d) for r, d, _ in told[3]] == [("acme/b", "withdraw"), ("acme/a", "withdraw")]
    back = watch(first, second, first, [repo("x", hub_id="9")], [repo("x", hub_id="9")])
    assert [(r, d) for r, d, _ in back[4]] == [("acme/a", "withdraw"), ("acme/b", "withdraw")]


def test_a_name_that_another_repository_has_taken_over_is_not_withdrawn_from_it():
    told = watch(
        [repo("a", 1, hub_id="1")],
        [repo("b", 1, hub_id="1"), repo("a", 2, hub_id="2")],
        *[[repo("a", 2, hub_id="2")]] * 2,
    )
    assert [(r, d) for r, d, _ in told[3]] == [("acme/b", "withdraw")]


def test_one_made_again_under_the_same_name_goes_on_where_the_first_was():
    told = watch([repo("a", 1, hub_id="1")], [repo("a", 1, hub_id="2")], [repo("a", 2, hub_id="2")])
    assert told[1] == []
    assert told[2] == [("acme/a", "onboard", "new commit")]


def test_a_repository_is_withdrawn_after_two_good_reads_without_it_once():
    both, one = [repo("a"), repo("b")], [repo("a")]
    told = watch(both, one, both, one, one, one, both)
    assert [len(t) for t in told] == [2, 0, 0, 0, 1, 0, 1]
    assert told[4][0][:2] == ("acme/b", "withdraw")
    assert told[6][0][1] == "skip"
    assert "back on the Hub" in told[6][0][2]


def test_a_suspiciously_short_listing_changes_nothing_until_it_has_come_back_the_same():
    many = [repo(f"r{n}") for n in range(10)]
    fresh = repo("fresh")
    told = watch(many, many[:7], [], many)
    assert told[1].reading.problem is not None
    assert told[2].reading.problem is not None
    assert told[3] == []
    short = [*many[:7], fresh]
    told = watch(many, *[short] * (BELIEVED_AFTER_READS + 1))
    assert all(t.reading.problem for t in told[1:BELIEVED_AFTER_READS])
    assert [d for _, d, _ in told[BELIEVED_AFTER_READS]] == ["onboard"]
    assert [d for _, d, _ in told[BELIEVED_AFTER_READS + 1]] == ["withdraw"] * 3


def test_two_hundred_releases_at_once():
    told = watch([], [repo(f"r{n}") for n in range(200)])
    assert sum(d == "onboard" for _, d, _ in told[1]) == 200


def test_weights_that_are_too_large_are_skipped_with_the_figure():
    told = watch([], [repo()], wanted=OrgWatch(max_size_gb=2), weight_bytes=3 * 10**9)
    assert told[1] == [("acme/one", "skip", "filter: 3.0 GB of weights are more than 2")]


listings = st.fixed_dictionaries({n: st.integers(0, 5) for n in "abcd"})


@given(st.lists(listings, min_size=1, max_size=8))
def test_every_commit_after_the_baseline_is_onboarded_exactly_once(ticks: list[dict[str, int]]):
    told = watch(*([repo(n, c) for n, c in tick.items()] for tick in ticks))
    decided = [(r, d) for tick in told[1:] for r, d, _ in tick]
    later = {(n, c) for tick in ticks[1:] for n, c in tick.items()} - set(ticks[0].items())
    assert len(decided) == len(later)
    assert all(decision == "onboard" for _, decision in decided)
