"""The Watcher's decision: which commits of an organisation are new, and which of those to onboard.

The whole listing is compared with every (repo_id, commit) decided before. Dates are not looked at: a repository is
created empty and filled later, or made public weeks after its creation, and a cursor on either date misses it.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.repo_files import CONFIGS, is_weight, missing_shards, weight_formats
from modelops_dagster.domain.values import Value

# What an OpenAI-style chat endpoint can serve. A repository without a pipeline tag gets the benefit of the doubt.
SERVED_PIPELINES = frozenset(
    {"text-generation", "text2text-generation", "image-text-to-text", "any-to-any", "audio-text-to-text"}
)
QUANTIZED_NAME = re.compile(
    r"[-_.](gguf|awq|gptq|mlx|exl[23]|bnb|fp8|fp4|nvfp4|mxfp4|int[48]|w[48]a\d+|[48]bit|q[2-8]_\w+|quantized)"
    r"(?=$|[-_.])",
    re.IGNORECASE,
)


class RepoListing(Value):
    """One repository as an organisation's listing shows it."""

    repo_id: str
    commit_hash: str
    files: tuple[str, ...] = Field(default=(), description="names only; sizes and digests cost a call per repository")
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    gated: bool = False
    private: bool = False
    disabled: bool = False
    created_at: datetime | None = None


class Detection(Value):
    """A commit that was decided upon, once."""

    repo_id: str
    commit_hash: str
    decision: Literal["onboard", "skip"]
    reason: str


class WatcherState(Value):
    """Every commit decided so far. An organisation that is not a key has never been read."""

    orgs: dict[str, dict[str, tuple[str, ...]]] = Field(
        default_factory=dict, description="org -> repo_id -> commits, oldest first"
    )


def detect(state: WatcherState, org: str, listing: Sequence[RepoListing]) -> tuple[WatcherState, list[Detection]]:
    """Compare one organisation's full listing with what was decided before.

    The first listing of an organisation is its baseline: everything in it is skipped. A repository whose weights are
    not complete is left undecided, and looked at again with its next commit.

    Args:
        state: what the previous call returned; `WatcherState()` at the very beginning.
        org: the organisation that was listed.
        listing: the whole listing. A failed or partial read must not be passed.

    Returns:
        The new state, and one detection per commit decided now, in the order of the listing.
    """
    before = state.orgs.get(org)
    seen = dict(before or {})
    found: list[Detection] = []
    for repo in listing:
        if repo.commit_hash in seen.get(repo.repo_id, ()):
            continue
        obstacle = obstacle_to(repo)
        if obstacle is None and not is_complete(repo):
            continue
        seen[repo.repo_id] = (*seen.get(repo.repo_id, ()), repo.commit_hash)
        if before is None:
            decision, reason = "skip", "baseline"
        elif obstacle is not None:
            decision, reason = "skip", obstacle
        else:
            decision, reason = "onboard", "new commit" if repo.repo_id in before else "new repository"
        found.append(
            Detection.model_validate(
                {"repo_id": repo.repo_id, "commit_hash": repo.commit_hash, "decision": decision, "reason": reason}
            )
        )
    return WatcherState(orgs={**state.orgs, org: seen}), found


def obstacle_to(repo: RepoListing) -> str | None:
    """Why this commit is not one to onboard, judged without any download; None when it is."""
    formats = weight_formats(repo.files)
    if repo.disabled:
        return "disabled on the Hub"
    if "adapter_config.json" in repo.files or any(t.startswith("base_model:adapter:") for t in repo.tags):
        return "an adapter, not a model"
    if formats and "safetensors" not in formats:
        return f"no safetensors, only {', '.join(formats)}"
    if any(t.startswith("base_model:quantized:") for t in repo.tags):
        return "a quantized re-publication (tag base_model:quantized)"
    if suffix := QUANTIZED_NAME.search(repo.repo_id.partition("/")[2]):
        return f"a quantized re-publication (name contains {suffix.group()!r})"
    if repo.pipeline_tag and repo.pipeline_tag not in SERVED_PIPELINES:
        return f"pipeline {repo.pipeline_tag} is not served"
    return None


def is_complete(repo: RepoListing) -> bool:
    """A configuration and every weight shard are there; what is missing arrives with a later commit."""
    has_weights = any(is_weight(f) for f in repo.files)
    return has_weights and any(c in repo.files for c in CONFIGS) and not missing_shards(repo.files)
