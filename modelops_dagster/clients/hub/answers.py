"""A Hub's answers as the product's values."""

from typing import Any

from modelops_dagster.domain.hub import RepoFile
from modelops_dagster.domain.listings import RepoListing


def listing_of(item: dict[str, Any]) -> RepoListing:
    return RepoListing(
        repo_id=item["id"],
        commit_hash=item["sha"],
        hub_id=item.get("_id"),
        files=tuple(s["rfilename"] for s in item["siblings"]),
        tags=tuple(item.get("tags") or ()),
        pipeline_tag=item.get("pipeline_tag"),
        gated=bool(item.get("gated")),
        private=bool(item.get("private")),
        parameters=(item.get("safetensors") or {}).get("total"),
        disabled=bool(item.get("disabled")),
        created_at=item.get("createdAt"),
    )


def tree_file(item: dict[str, Any]) -> RepoFile:
    """From a tree, where the digest of an LFS file's content is called `oid`."""
    lfs = item.get("lfs")
    return RepoFile(
        path=item["path"],
        size_bytes=lfs["size"] if lfs else item["size"],
        sha256=lfs["oid"] if lfs else None,
        git_sha1=None if lfs else item["oid"],
    )


def repo_file(sibling: Any) -> RepoFile:
    """From `model_info(files_metadata=True)`; the size of an LFS file is that of its content."""
    lfs = sibling.lfs
    if sibling.size is None and lfs is None:
        raise ValueError(f"no size for {sibling.rfilename}")
    return RepoFile(
        path=sibling.rfilename,
        size_bytes=lfs.size if lfs else sibling.size,
        sha256=lfs.sha256 if lfs else None,
        git_sha1=None if lfs else sibling.blob_id,
    )


def license_of(info: Any) -> str | None:
    stated = getattr(info.card_data, "license", None)
    if stated:
        return ", ".join(stated) if isinstance(stated, list) else str(stated)
    return next((t.removeprefix("license:") for t in info.tags or [] if t.startswith("license:")), None)


def gated_of(stated: object) -> Any:
    return stated if stated in ("auto", "manual") else ("auto" if stated else None)
