"""What an operator allows one commit of one repository to do that no other may."""

from datetime import datetime

from pydantic import Field

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.hub import COMMIT_HASH, ModelRevision, require_repo_id
from modelops_dagster.domain.values import Value


class Allowance(Value):
    """Bound to a commit: whatever the publisher uploads next has to be read and allowed anew."""

    revision: ModelRevision
    remote_code: bool = Field(default=True, description="its Python files are fetched, and engines may run them")
    reason: str = Field(min_length=1, max_length=500, description="why, for whoever reads this in a year")
    by: str = Field(min_length=1, max_length=100, description="who allowed it")
    at: datetime = Field(description="UTC")
    withdrawn_by: str | None = None
    withdrawn_at: datetime | None = Field(default=None, description="UTC; an allowance is withdrawn, never erased")

    @property
    def holds(self) -> bool:
        return self.withdrawn_at is None


def parse_revision(text: str) -> ModelRevision:
    """The revision that `org/name@<40 hex digits>` names.

    Raises:
        InvalidSpec: it names none, or something that moves.
    """
    repo_id, _, commit_hash = text.partition("@")
    if not COMMIT_HASH.fullmatch(commit_hash):
        raise InvalidSpec(
            f"{text!r} does not name a commit: write org/name@ and the 40 hex digits of the commit, since a branch or "
            "tag may show something else tomorrow.",
            field="revision",
        )
    return ModelRevision(repo_id=require_repo_id(repo_id), commit_hash=commit_hash)
