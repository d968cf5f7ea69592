"""One repository as an organisation's listing shows it, and what can be judged from that alone."""

import re
from datetime import datetime

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
    hub_id: str | None = Field(default=None, description="the Hub's own id; it survives a rename")
    files: tuple[str, ...] = Field(default=(), description="names only; sizes and digests cost a call per repository")
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    parameters: int | None = Field(default=None, description="from the safetensors headers, when the Hub tells")
    gated: bool = False
    private: bool = False
    disabled: bool = False
    created_at: datetime | None = None

    @property
    def name(self) -> str:
        return self.repo_id.partition("/")[2]

    @property
    def licenses(self) -> frozenset[str]:
        """What the repository's tags state, in lower case; empty when they state none."""
        return frozenset(t.removeprefix("license:").lower() for t in self.tags if t.startswith("license:"))


class RepoContent(Value):
    """What one look at a commit's files showed."""

    digest: str = Field(description="of the files that make the checkpoint; documents do not count")
    weight_bytes: int = 0
    readable: bool = Field(default=True, description="False: the repository is gated and this account was not let in")


def obstacle_to(repo: RepoListing) -> str | None:
    """Why this commit is not one to onboard, judged without any download; None when it is."""
    formats = weight_formats(repo.files)
    if "adapter_config.json" in repo.files or any(t.startswith("base_model:adapter:") for t in repo.tags):
        return "an adapter, not a model"
    if formats and "safetensors" not in formats:
        return f"no safetensors, only {', '.join(formats)}"
    if any(t.startswith("base_model:quantized:") for t in repo.tags):
        return "a quantized re-publication (tag base_model:quantized)"
    if suffix := QUANTIZED_NAME.search(repo.name):
        return f"a quantized re-publication (name contains {suffix.group()!r})"
    if repo.pipeline_tag and repo.pipeline_tag not in SERVED_PIPELINES:
        return f"pipeline {repo.pipeline_tag} is not served"
    return None


def is_complete(repo: RepoListing) -> bool:
    """A configuration and every weight shard are there; what is missing arrives with a later commit."""
    return incompleteness(repo) is None


def incompleteness(repo: RepoListing) -> str | None:
    """What a commit still lacks, judged by names; None when nothing is known to be missing."""
    if not any(is_weight(f) for f in repo.files):
        return "no weights yet"
    if not any(c in repo.files for c in CONFIGS):
        return "no config.json yet"
    if missing := missing_shards(repo.files):
        return f"{len(missing)} weight files are not there yet, {missing[0]} first"
    return None
