"""What the Hub says about a model: the identity of a revision and the facts known before any weight is fetched."""

import re
from typing import Literal

from pydantic import Field, field_validator

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.domain.values import Value

REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
COMMIT_HASH = re.compile(r"[0-9a-f]{40}")


def require_repo_id(repo_id: str) -> str:
    """Return `repo_id` when it is `org/name`; it is also the Dagster partition key, so commas and bars are refused.

    Raises:
        InvalidSpec: the string is not `org/name`.
    """
    if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id or len(repo_id) > 160:
        raise InvalidSpec(
            f"{repo_id!r} is not a repository id: write org/name with letters, digits and single '.', '_' and '-'.",
            field="repo_id",
        )
    return repo_id


def require_commit(commit_hash: str) -> str:
    """Return `commit_hash` when it is a whole one.

    Raises:
        InvalidSpec: the string is no commit hash.
    """
    if not COMMIT_HASH.fullmatch(commit_hash):
        raise InvalidSpec(f"{commit_hash!r} is not a commit hash; give all 40 hex digits.", field="commit")
    return commit_hash


class ModelRevision(Value):
    """One commit of one repository: the root of every lineage."""

    repo_id: str = Field(description="org/name on the Hub")
    commit_hash: str = Field(description="40 hex digits; does not move")

    @field_validator("repo_id")
    @classmethod
    def _repo_id(cls, value: str) -> str:
        return require_repo_id(value)

    @field_validator("commit_hash")
    @classmethod
    def _commit_hash(cls, value: str) -> str:
        if not COMMIT_HASH.fullmatch(value):
            raise ValueError(f"{value!r} is not a commit hash of 40 hex digits")
        return value

    @property
    def org(self) -> str:
        return self.repo_id.split("/")[0]

    @property
    def name(self) -> str:
        return self.repo_id.split("/")[1]

    def __str__(self) -> str:
        return f"{self.repo_id}@{self.commit_hash[:12]}"


class RepoFile(Value):
    """One file of a revision as the Hub lists it."""

    path: str
    size_bytes: int
    sha256: str | None = Field(default=None, description="of the content, for LFS files")
    git_sha1: str | None = Field(default=None, description="git blob id, for small files")


class Release(Value):
    """A revision with everything a kilobyte of JSON can say about it, before any weight is fetched."""

    revision: ModelRevision
    hub_url: str = Field(description="base URL of the Hub it was read from")
    files: tuple[RepoFile, ...]
    architectures: tuple[str, ...] = ()
    model_type: str | None = None
    dtype: str | None = None
    quantization: str | None = Field(default=None, description="quant_method of a checkpoint released quantized")
    license: str | None = None
    gated: Literal["auto", "manual"] | None = None
    has_chat_template: bool = False
    remote_code: bool = Field(default=False, description="config.json asks for code from the repository (auto_map)")
    parameters: int | None = Field(default=None, description="from the safetensors headers, when the Hub tells")
    max_context: int | None = Field(default=None, description="max_position_embeddings, in tokens")
    parameters_by_dtype: dict[str, int] = Field(default_factory=dict, description="from the safetensors headers")
    preflight: Preflight | None = Field(default=None, description="what follows for serving it here; None: not looked")

    @property
    def runs_without_code(self) -> bool:
        """Whether an installed engine was found that knows it by itself, whatever code its repository brings."""
        return self.preflight is not None and any(s.is_native for s in self.preflight.supports)

    @property
    def weight_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files if f.path.endswith(".safetensors"))
