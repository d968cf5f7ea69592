"""What may be deleted, as a pure function."""

from datetime import UTC, datetime, timedelta

import pytest

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.retention import (
    Retained,
    RetentionPolicy,
    StoredCheckpoint,
    User,
    freed_bytes,
    parse_duration,
    plan_retention,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY_S = 86400.0


def stored(n: int, *, age_days: float, repo_id: str = "acme/one", **fields: object) -> StoredCheckpoint:
    at = NOW - timedelta(days=age_days)
    values = {"scheme": "raw", "size_bytes": 10, "fetched_at": at, "last_used_at": at, **fields}
    revision = ModelRevision(repo_id=repo_id, commit_hash=f"{n:040x}")
    directory = f"/store/{repo_id}/{revision.commit_hash}-{values['scheme']}"
    return StoredCheckpoint.model_validate({"revision": revision, "directory": directory, **values})


def decide(
    checkpoints: list[StoredCheckpoint], users: tuple[User, ...] = (), keep: int = 1, days: float = 30
) -> dict[str, Retained]:
    policy = RetentionPolicy(keep=keep, older_than_s=days * DAY_S)
    return {d.checkpoint.directory: d for d in plan_retention(checkpoints, users, policy, NOW)}


def kept(decisions: dict[str, Retained]) -> list[bool]:
    return [d.keep for d in decisions.values()]


def test_the_newest_of_each_repository_and_scheme_are_kept():
    checkpoints = [stored(n, age_days=40 + n) for n in range(4)]
    checkpoints += [stored(0, age_days=90, scheme="W8A8"), stored(7, age_days=99, repo_id="acme/two")]
    decided = decide(checkpoints, keep=2)
    assert [c.directory for c in checkpoints if not decided[c.directory].keep] == [
        c.directory for c in checkpoints[2:4]
    ]
    assert "older than 30d, not among the 2 newest" in decided[checkpoints[3].directory].reason


def test_what_was_asked_for_lately_is_kept():
    old = stored(1, age_days=400, last_used_at=NOW - timedelta(days=3))
    decided = decide([stored(2, age_days=1), old, stored(3, age_days=399)])
    assert decided[old.directory].reason == "asked for within 30d"
    assert kept(decided) == [True, False, True]  # newest first
    assert kept(decide([old], keep=0, days=2)) == [False]


def test_what_is_used_or_pinned_is_kept_whatever_the_policy_says():
    raw, fp8 = stored(1, age_days=99), stored(1, age_days=99, scheme="FP8_DYNAMIC")
    pinned = stored(2, age_days=99, pinned="a demo")
    by_directory = User(name="route acme/one", directory=fp8.directory, commit_hash=fp8.revision.commit_hash)
    decided = decide([raw, fp8, pinned], (by_directory,), keep=0)
    # the quantized one holds all it needs: it does not keep what it was made from
    assert (decided[raw.directory].keep, decided[fp8.directory].keep) == (False, True)
    assert decided[fp8.directory].reason == "used by route acme/one"
    assert decided[pinned.directory].reason == "pinned: a demo"
    by_commit = User(name="route acme/one", commit_hash=raw.revision.commit_hash)
    assert kept(decide([raw, fp8], (by_commit,), keep=0)) == [True, True]


def test_a_shared_file_is_freed_by_its_last_name():
    assert freed_bytes({(1, 1): (100, 1, 1), (1, 2): (1000, 2, 1), (1, 3): (10, 2, 2)}) == 110


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * DAY_S), ("12h", 43200.0), ("0", 0.0), ("2w", 14 * DAY_S)])
def test_durations(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1y", "9999999999d"])
def test_what_is_no_duration_is_told(text: str):
    with pytest.raises(InvalidSpec, match="30d"):
        parse_duration(text)
