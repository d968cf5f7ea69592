"""What a user of huggingface_hub does, once, against a Hub that `hub_scene` has set up. Prints one JSON object.

Run as a program in the interpreter whose huggingface_hub is to be tried: `hub_calls.py SCENE.json FOLDER`. It imports
nothing of this repository, and its output depends on the scene alone: two versions of the client must print the same.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import parse_ratelimit_headers


def error_of(call: Callable[[], object]) -> str:
    """Name of the exception a call ends in."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "none"


def listings(api: HfApi) -> dict[str, Any]:
    """list_models: filters, orders, pages, fields."""
    everything = list(api.list_models(author="acme", expand=["sha", "siblings", "createdAt", "gated", "tags"]))
    return {
        "paged": sorted(m.id for m in everything),
        "all_have_files": all(m.sha and m.siblings for m in everything if m.id != "acme/empty"),
        "newest_first": [m.id for m in api.list_models(author="acme", sort="created_at", limit=3)],
        "by_change": len(list(api.list_models(author="acme", sort="last_modified"))),
        "search": [m.id for m in api.list_models(search="NUMBER-3")],
        "tag": [m.id for m in api.list_models(filter=["special", "license:mit"])],
        "pipeline": [m.id for m in api.list_models(pipeline_tag="fill-mask")],
        "gated": [m.id for m in api.list_models(gated=True)],
        "small": [m.id for m in api.list_models(author="acme", num_parameters="min:100,max:1K")],
        "limit": len(list(api.list_models(author="acme", limit=4))),
        "full": sorted(s.rfilename for s in next(iter(api.list_models(search="number-3", full=True))).siblings or []),
        "config": next(iter(api.list_models(search="number-3", fetch_config=True))).config,
        "card": next(iter(api.list_models(search="number-3", cardData=True))).card_data.license,
        "nobody": list(api.list_models(author="nobody")),
    }


def one_model(api: HfApi, scene: dict[str, Any]) -> dict[str, Any]:
    """Everything that is said of one repository without its files."""
    info = api.model_info("acme/main", files_metadata=True)
    lfs = next(s for s in info.siblings or [] if s.rfilename == "model.safetensors").lfs
    refs = api.list_repo_refs("acme/main")
    expanded = list(api.list_repo_tree("acme/main", expand=True))
    return {
        "sha": info.sha,
        "license": info.card_data.license,
        "weights": [lfs.size, lfs.sha256],
        "parameters": info.safetensors.parameters,
        "expanded": sorted(k for k, v in vars(api.model_info("acme/main", expand=["tags", "sha"])).items() if v),
        "old": api.model_info("acme/main", revision=scene["old"]).sha,
        "by_tag": api.model_info("acme/main", revision="v1").sha,
        "by_branch": api.model_info("acme/main", revision="next/one").sha,
        "tree": [e.path for e in api.list_repo_tree("acme/main")],
        "recursive": [e.path for e in api.list_repo_tree("acme/main", recursive=True)],
        "folder": [e.path for e in api.list_repo_tree("acme/main", "many")],
        "last_commits": {e.path: e.last_commit.oid for e in expanded if e.last_commit},
        "branches": {b.name: b.target_commit for b in refs.branches},
        "tags": {t.ref: t.target_commit for t in refs.tags},
        "commits": [c.commit_id for c in api.list_repo_commits("acme/main")],
        "formatted": [c.formatted_title for c in api.list_repo_commits("acme/main", revision="v1", formatted=True)],
        "paths": [(p.path, type(p).__name__) for p in api.get_paths_info("acme/main", ["config.json", "many", "no"])],
        "path_commit": api.get_paths_info("acme/main", "config.json", expand=True)[0].last_commit.oid,
        "exists": [api.file_exists("acme/main", "config.json"), api.file_exists("acme/main", "none")],
        "known": [api.repo_exists("acme/main"), api.repo_exists("acme/none"), api.revision_exists("acme/main", "v9")],
        "header": api.get_safetensors_metadata("acme/main").parameter_count,
        "author": api.whoami(token=scene["token"])["name"],
    }


def files(api: HfApi, scene: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Downloads, whole and cut, into the cache and into a folder, and their verification."""
    where: dict[str, Any] = {"endpoint": api.endpoint, "token": False}
    cache, local = folder / "cache", folder / "local"
    old = hf_hub_download("acme/main", "config.json", revision=scene["old"], cache_dir=cache, **where)
    planned = snapshot_download("acme/main", dry_run=True, cache_dir=cache, **where)
    cached = Path(snapshot_download("acme/main", cache_dir=cache, **where))
    pinned = Path(snapshot_download("acme/main", revision=scene["old"], local_dir=local, **where))
    again = Path(snapshot_download("acme/main", revision=scene["old"], local_dir=local, **where))
    cut = Path(hf_hub_download("acme/cut", "model.safetensors", local_dir=folder / "cut", **where))
    checked = api.verify_repo_checksums("acme/main", revision=scene["old"], local_dir=local)
    with (local / "model.safetensors").open("r+b") as out:
        out.seek(-1, os.SEEK_END)
        out.write(b"?")
    spoiled = api.verify_repo_checksums("acme/main", revision=scene["old"], local_dir=local)
    return {
        "old_config": json.loads(Path(old).read_text())["max_position_embeddings"],
        "planned": sorted((f.filename, f.file_size) for f in planned),
        "cached": sorted(p.relative_to(cached).as_posix() for p in cached.rglob("*") if p.is_file()),
        "pinned": sorted(p.name for p in pinned.iterdir() if p.is_file()),
        "again": again == pinned,
        "cut_bytes": cut.stat().st_size,
        "checked": [checked.checked_count, len(checked.mismatches), len(checked.missing_paths)],
        "spoiled": [m["path"] for m in spoiled.mismatches],
    }


def refusals(api: HfApi, scene: dict[str, Any], folder: Path) -> dict[str, str]:
    """What is not there, or not for this caller."""

    def fetch(repo_id: str, path: str = "config.json", token: str | bool = False) -> Callable[[], object]:
        where: dict[str, Any] = {"endpoint": api.endpoint, "token": token, "cache_dir": folder / "refused"}
        return lambda: hf_hub_download(repo_id, path, **where)

    friend = HfApi(endpoint=api.endpoint, token=scene["token"])
    return {
        "gated_file": error_of(fetch("acme/gated")),
        "gated_info": error_of(lambda: api.model_info("acme/gated")),
        "gated_probe": error_of(lambda: api.auth_check("acme/gated")),
        "gated_wrong_token": error_of(fetch("acme/gated", token="hf_of_somebody_else")),
        "gated_friend": error_of(fetch("acme/gated", token=scene["token"])),
        "gated_friend_probe": error_of(lambda: friend.auth_check("acme/gated")),
        "open_probe": error_of(lambda: api.auth_check("acme/main")),
        "private": error_of(lambda: api.model_info("acme/private")),
        "private_friend": error_of(lambda: friend.model_info("acme/private")),
        "disabled": error_of(lambda: api.model_info("acme/disabled")),
        "missing": error_of(lambda: api.model_info("acme/none")),
        "missing_file": error_of(fetch("acme/main", "none.json")),
        "missing_revision": error_of(lambda: api.model_info("acme/main", revision="v9")),
        "missing_folder": error_of(lambda: list(api.list_repo_tree("acme/main", "additional_chat_templates"))),
        "empty_file": error_of(fetch("acme/empty")),
        "bad_filter": error_of(lambda: list(api.list_models(apps="vllm"))),
        "whoami": error_of(lambda: api.whoami(token="hf_of_somebody_else")),
    }


def limited(endpoint: str) -> dict[str, Any]:
    """A Hub that grants two requests: the third is refused, and says how long to wait."""
    api = HfApi(endpoint=endpoint, token=False)
    answers = []
    for _ in range(3):
        try:
            answers.append(api.model_info("acme/main").id)
        except HfHubHTTPError as error:
            limit = parse_ratelimit_headers(error.response.headers)
            assert limit is not None
            waits = 0 < limit.reset_in_seconds <= 300 and int(error.response.headers["Retry-After"]) > 0
            answers.append(
                f"{error.response.status_code} {limit.resource_type} {limit.remaining} {limit.limit} {waits}"
            )
    return {"answers": answers}


def main() -> None:
    scene, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    api = HfApi(endpoint=scene["url"], token=False)
    shown = {
        "listings": listings(api),
        "one_model": one_model(api, scene),
        "files": files(api, scene, folder),
        "refusals": refusals(api, scene, folder),
        "limited": limited(scene["limited_url"]),
    }
    print(json.dumps(shown, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
