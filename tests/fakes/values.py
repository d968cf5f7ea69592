"""Values of the chain as they are when a test does not care: each takes the fields that it does care about."""

from datetime import UTC, datetime
from typing import Any

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.verdicts import Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def a_checkpoint(repo_id: str = "org/model", commit_hash: str = "a" * 40, **fields: Any) -> Checkpoint:
    revision = ModelRevision(repo_id=repo_id, commit_hash=commit_hash)
    known = {"revision": revision, "scheme": "raw", "directory": "/m", "digest": "sha256:1", "size_bytes": 1}
    return Checkpoint.model_validate(known | fields)


def an_endpoint(**fields: Any) -> Endpoint:
    """An endpoint of `engine`, on the rung of that name."""
    engine = fields.get("engine", "fake")
    known = {
        "name": "e", "url": "http://127.0.0.1:1/v1", "served_model_name": "m", "engine": engine, "engine_version": "1",
        "rung": engine, "ladder": (), "start_seconds": 1.0, "tokens_per_second": 1.0, "max_context": 128,
    }  # fmt: skip
    return Endpoint.model_validate(known | {"checkpoint": a_checkpoint()} | fields)


def a_verdict(outcome: str = "pass", **fields: Any) -> Verdict:
    known = {
        "verdict_id": "v", "outcome": outcome, "reason": f"{outcome}: because", "policy": "test", "policy_digest": "d",
        "criteria": (), "repo_id": "org/model", "commit_hash": "a" * 40, "lane": "raw", "endpoint": "e",
        "decided_at": NOW,
    }  # fmt: skip
    return Verdict.model_validate(known | fields)
