"""Everything a user of huggingface_hub asks, answered by the Hub server; tests/engines asks the same with version 2."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.hub_scene import call_hub, hub_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with hub_scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def answers(scene: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return call_hub(sys.executable, scene, tmp_path_factory.mktemp("calls") / "one")


def test_listings(answers: dict[str, Any]):
    numbers = [f"acme/number-{n}" for n in range(5)]
    visible = sorted([*numbers, *(f"acme/{n}" for n in ("cut", "disabled", "empty", "gated", "main", "special"))])
    assert answers["listings"] == {
        "paged": visible,
        "all_have_files": True,
        "newest_first": ["acme/empty", "acme/cut", "acme/main"],
        "by_change": len(visible),
        "search": ["acme/number-3"],
        "tag": ["acme/special"],
        "pipeline": ["acme/special"],
        "gated": ["acme/gated"],
        "small": ["acme/number-2", "acme/number-3", "acme/number-4"],
        "limit": 4,
        "full": ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        "config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "card": "apache-2.0",
        "nobody": [],
    }


def test_one_model(answers: dict[str, Any], scene: dict[str, Any]):
    seen, old = answers["one_model"], scene["old"]
    new = seen["sha"]
    many = [f"many/{n}.txt" for n in range(7)]
    at_the_top = ["README.md", "config.json", "many", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert new != old
    assert seen["old"] == seen["by_tag"] == seen["by_branch"] == old
    assert seen["tree"] == at_the_top
    assert seen["recursive"] == sorted([*at_the_top, *many])
    assert seen["folder"] == many
    assert seen["branches"] == {"main": new, "next/one": old}
    assert seen["tags"] == {"refs/tags/v1": old}
    assert seen["commits"] == [new, old]
    assert seen["formatted"] == ["5 files"]
    assert {p for p, commit in seen["last_commits"].items() if commit == new} == {
        "config.json",
        "many",
        "model.safetensors",
    }
    assert seen["path_commit"] == new
    assert seen["paths"] == [["config.json", "RepoFile"], ["many", "RepoFolder"]]
    assert seen["exists"] == [True, False]
    assert seen["known"] == [True, False, False]
    assert seen["header"] == seen["parameters"] == {"U8": 4}
    assert seen["author"] == "somebody"


def test_files(answers: dict[str, Any], scene: dict[str, Any]):
    seen = answers["files"]
    assert seen["old_config"] == 2048
    assert [name for name, _ in seen["planned"]] == seen["cached"]
    assert len(seen["cached"]) == 12
    assert seen["pinned"] == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert seen["again"]
    assert seen["checked"] == [5, 0, 0]
    assert seen["spoiled"] == ["model.safetensors"]
    assert seen["cut_bytes"] > 24 << 20
    cut = [r for r in scene["faults"].requests if r.startswith("GET /acme/cut/resolve")]
    assert len(cut) == 2 and cut[1].endswith("[bytes=10485760-]"), cut


def test_refusals(answers: dict[str, Any]):
    assert answers["refusals"] == {
        "gated_file": "GatedRepoError",
        "gated_info": "none",
        "gated_probe": "GatedRepoError",
        "gated_wrong_token": "GatedRepoError",
        "gated_friend": "none",
        "gated_friend_probe": "none",
        "open_probe": "none",
        "private": "RepositoryNotFoundError",
        "private_friend": "none",
        "disabled": "DisabledRepoError",
        "missing": "RepositoryNotFoundError",
        "missing_file": "RemoteEntryNotFoundError",
        "missing_revision": "RevisionNotFoundError",
        "missing_folder": "RemoteEntryNotFoundError",
        "empty_file": "RemoteEntryNotFoundError",
        "bad_filter": "BadRequestError",
        "whoami": "HfHubHTTPError",
    }


def test_a_limit_of_requests_is_told_as_the_hub_tells_it(answers: dict[str, Any]):
    assert answers["limited"] == {"answers": ["acme/main", "acme/main", "429 api 0 2 True"]}
