"""The JSON a Hub answers with, as the official client reads it."""

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from modelops_dagster.clients.checkpoints.digests import read_safetensors_header
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.services.hub_server.storage import Commit, HubStorage, RepoSettings, StoredFile

CONFIG_FIELDS = ("architectures", "model_type", "quantization_config", "auto_map")
LISTED_BY_DEFAULT = ("likes", "private", "downloads", "tags", "pipeline_tag", "library_name", "createdAt")
IDENTITY = ("_id", "id", "modelId")
POINTER_BYTES = 134
MAX_SMALL_BYTES = 4 << 20


def model_info(storage: HubStorage, repo_id: str, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """Everything about one repository at one commit."""
    settings = storage.settings(repo_id)
    config = _parsed(storage, commit, "config.json")
    card = _card(storage, commit) | ({"license": settings.license} if settings.license else {})
    info: dict[str, Any] = {
        "_id": hashlib.sha256(repo_id.encode()).hexdigest()[:24],
        "id": repo_id,
        "modelId": repo_id,
        "author": repo_id.split("/")[0],
        "sha": commit.commit_hash,
        "createdAt": _timestamp(settings.created_at or storage.first_seen(repo_id) or commit.created_at),
        "lastModified": _timestamp(commit.created_at),
        "private": settings.private,
        "gated": settings.gated,
        "disabled": settings.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(settings, commit, config, card),
        "pipeline_tag": settings.pipeline_tag,
        "library_name": "transformers",
        "config": {k: config[k] for k in CONFIG_FIELDS if k in config},
        "cardData": card or None,
        "usedStorage": sum(f.size_bytes for f in commit.files),
        "siblings": [_sibling(f, blobs) for f in commit.files],
    }
    counts = _parameters(storage, commit)
    if counts:
        info["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
    return info


def selected(info: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """Only the fields that were asked for, and the identity."""
    return {k: v for k, v in info.items() if k in IDENTITY or k in expand}


def tree(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]] | None:
    """Entries under `folder` ("" is the root) in order of path; None when there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    inside = [f for f in commit.files if f.path.startswith(prefix)]
    if folder and not inside:
        return None
    entries = {f.path: entry(f) for f in inside if recursive or "/" not in f.path[len(prefix) :]}
    for file in inside:
        for parent in list(PurePosixPath(file.path).parents)[:-1]:
            path = str(parent)
            if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :]):
                entries[path] = directory_entry(path)
    return [entries[path] for path in sorted(entries)]


def entry(file: StoredFile) -> dict[str, Any]:
    """A file in a tree. LFS digests are called `oid` here and `sha256` in a model's siblings."""
    shown: dict[str, Any] = {"type": "file", "oid": file.git_sha1, "size": file.size_bytes, "path": file.path}
    if file.is_lfs:
        shown["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": POINTER_BYTES}
    return shown


def directory_entry(path: str) -> dict[str, Any]:
    oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def with_last_commits(entries: list[dict[str, Any]], history: Sequence[Commit]) -> list[dict[str, Any]]:
    """Tree entries with the commit that brought each its present content.

    Args:
        entries: of the first commit of `history`.
        history: newest first.
    """
    states = [{f.path: f.sha256 for f in commit.files} for commit in history]
    shown = []
    for item in entries:
        inside = [p for p in states[0] if p == item["path"] or p.startswith(f"{item['path']}/")]
        first = next(
            (n for n, older in enumerate(states[1:]) if any(older.get(p) != states[0][p] for p in inside)),
            len(history) - 1,
        )
        last = {k: v for k, v in commit_entry(history[first]).items() if k in ("id", "title", "date")}
        shown.append({**item, "lastCommit": last})
    return shown


def commit_entry(commit: Commit, *, formatted: bool = False) -> dict[str, Any]:
    """A commit in a history; `formatted` adds its title and message as HTML, which have nothing to escape."""
    title = counted(len(commit.files), "file")
    entry = {
        "id": commit.commit_hash,
        "title": title,
        "message": "",
        "authors": [{"user": "hub"}],
        "date": _timestamp(commit.created_at),
    }
    return entry | ({"formatted": {"title": title, "message": ""}} if formatted else {})


def _sibling(file: StoredFile, blobs: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"rfilename": file.path}
    if blobs:
        shown |= {"size": file.size_bytes, "blobId": file.git_sha1}
        if file.is_lfs:
            shown["lfs"] = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": POINTER_BYTES}
    return shown


def _tags(settings: RepoSettings, commit: Commit, config: dict[str, Any], card: dict[str, Any]) -> list[str]:
    tags = [*settings.tags]
    if config:
        tags += ["transformers", str(config.get("model_type", ""))]
    if any(f.path.endswith(".safetensors") for f in commit.files):
        tags.append("safetensors")
    if isinstance(card.get("license"), str):
        tags.append(f"license:{card['license']}")
    return [t for t in dict.fromkeys(tags) if t]


def _small(storage: HubStorage, commit: Commit, path: str) -> str | None:
    file = next((f for f in commit.files if f.path == path and f.size_bytes <= MAX_SMALL_BYTES), None)
    content = storage.content(file) if file is not None else None
    return content.read_text(errors="replace") if content is not None else None


def _parsed(storage: HubStorage, commit: Commit, path: str) -> dict[str, Any]:
    """A JSON file of the commit; empty when it has none or its author broke it, which a Hub serves all the same."""
    try:
        content = json.loads(_small(storage, commit, path) or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _card(storage: HubStorage, commit: Commit) -> dict[str, Any]:
    """The YAML block at the top of README.md, where a model's licence is stated."""
    parts = (_small(storage, commit, "README.md") or "").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        return {}
    try:
        card = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return json.loads(json.dumps(card, default=str)) if isinstance(card, dict) else {}


def _parameters(storage: HubStorage, commit: Commit) -> dict[str, int]:
    """dtype -> number of parameters, over the safetensors at the root of the repository."""
    counts: dict[str, int] = {}
    for file in commit.files:
        if file.path.endswith(".safetensors") and "/" not in file.path:
            content = storage.content(file)
            for dtype, count in _counted(content) if content is not None else ():
                counts[dtype] = counts.get(dtype, 0) + count
    return counts


@lru_cache(maxsize=4096)
def _counted(content: Path) -> tuple[tuple[str, int], ...]:
    """(dtype, parameters) of one object; its path is its digest, so the answer does not change."""
    try:
        header = read_safetensors_header(content)
    except IntegrityError:
        return ()
    counts: dict[str, int] = {}
    for tensor in header.values():
        counts[str(tensor["dtype"])] = counts.get(str(tensor["dtype"]), 0) + math.prod(tensor["shape"])
    return tuple(counts.items())


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
