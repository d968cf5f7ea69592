"""Which checkpoints may be deleted: a pure function of what there is, who uses it, and the policy."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import Field

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class RetentionPolicy(Value):
    """What is kept although nobody uses it."""

    keep: int = Field(default=2, ge=0, description="newest checkpoints of each repository and scheme")
    older_than_s: float = Field(default=30 * 86400.0, ge=0, description="what was asked for since is kept, in seconds")


class StoredCheckpoint(Value):
    """A checkpoint as it lies in the store."""

    revision: ModelRevision
    scheme: Scheme
    directory: str = Field(description="absolute path")
    size_bytes: int
    fetched_at: datetime = Field(description="UTC; when its manifest was written")
    last_used_at: datetime = Field(description="UTC; when it was last asked for or verified")
    pinned: str | None = Field(default=None, description="why somebody wants it kept; None: nobody does")


class User(Value):
    """Something that would break without a checkpoint, which it names by its directory or only by its commit."""

    name: str = Field(description="e.g. route acme/one, endpoint acme-one-raw-1f0c9a2b")
    directory: str | None = None
    commit_hash: str | None = None

    def uses(self, checkpoint: StoredCheckpoint) -> bool:
        if self.directory is not None:
            return self.directory == checkpoint.directory
        return self.commit_hash == checkpoint.revision.commit_hash


class Retained(Value):
    """What becomes of one checkpoint, and why."""

    checkpoint: StoredCheckpoint
    keep: bool
    reason: str


def plan_retention(
    checkpoints: Iterable[StoredCheckpoint], users: Sequence[User], policy: RetentionPolicy, now: datetime
) -> tuple[Retained, ...]:
    """Decide over every checkpoint, those of one repository together and the newest first.

    A checkpoint that was made from another does not keep that one: it holds all that it needs itself.

    Args:
        checkpoints: the whole store.
        users: everything that would break; what they use is kept whatever the policy says.
        policy: what else is kept.
        now: UTC.
    """
    ordered = sorted(checkpoints, key=lambda c: (c.revision.repo_id, c.scheme, -c.fetched_at.timestamp()))
    seen: dict[tuple[str, str], int] = {}
    decided = []
    for checkpoint in ordered:
        group = (checkpoint.revision.repo_id, checkpoint.scheme)
        seen[group] = seen.get(group, 0) + 1
        reason = _reason_to_keep(checkpoint, users, policy, seen[group], now)
        unused = f"unused, older than {_shown(policy.older_than_s)}, not among the {policy.keep} newest"
        decided.append(Retained(checkpoint=checkpoint, keep=reason is not None, reason=reason or unused))
    return tuple(decided)


def _reason_to_keep(
    checkpoint: StoredCheckpoint, users: Sequence[User], policy: RetentionPolicy, rank: int, now: datetime
) -> str | None:
    names = [user.name for user in users if user.uses(checkpoint)]
    if names:
        return f"used by {', '.join(names)}"
    if checkpoint.pinned is not None:
        return f"pinned: {checkpoint.pinned}"
    if rank <= policy.keep:
        return f"among the {policy.keep} newest"
    if now - checkpoint.last_used_at < timedelta(seconds=policy.older_than_s):
        return f"asked for within {_shown(policy.older_than_s)}"
    return None


def freed_bytes(files: Mapping[tuple[int, int], tuple[int, int, int]]) -> int:
    """Bytes that deleting names of files sets free: a file goes when its last name does.

    Args:
        files: (device, inode) -> (size in bytes, names in all, names to be deleted).
    """
    return sum(size for size, names, deleted in files.values() if deleted >= names)


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `30d`, `12h` or `0`; units are s, m, h, d, w.

    Raises:
        InvalidSpec: it is none.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "s" if text == "0" else "")
    if not unit or not number.isdigit() or len(number) > 9:
        raise InvalidSpec(
            f"{text!r} is not a duration: write a whole number and one of s, m, h, d, w, for example 30d.",
            field="older_than",
        )
    return float(int(number) * _UNITS[unit])


def _shown(seconds: float) -> str:
    unit = next((u for u in ("w", "d", "h", "m") if seconds >= _UNITS[u] and seconds % _UNITS[u] == 0), "s")
    return f"{seconds / _UNITS[unit]:g}{unit}"
