"""Rows and verdicts for the tests of the score history."""

from datetime import UTC, datetime
from typing import Any

from modelops_dagster.domain.verdicts import Criterion, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def score(run: str = "run-1", repo_id: str = "org/model", **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run,
        "repo_id": repo_id,
        "commit_hash": "a" * 40,
        "lane": "raw",
        "endpoint": "e",
        "engine": "fake",
        "suite": "quality",
        "suite_digest": "d",
        "instrument": "i",
        "metric": "accuracy",
        "value": 0.5,
        "n": 10,
        "unit": "share",
        "evaluated_at": NOW,
        **changes,
    }


def verdict(outcome: Any = "pass", verdict_id: str = "0123456789abcdef", at: datetime = NOW) -> Verdict:
    seen = Criterion(
        suite="quality", metric="accuracy", tier="required", outcome=outcome, value=0.5, n=10, rule=">= 0.40"
    )
    return Verdict(
        verdict_id=verdict_id,
        outcome=outcome,
        reason=f"{outcome}: because",
        policy="test",
        policy_digest="sha256:0",
        criteria=(seen,),
        repo_id="org/model",
        commit_hash="a" * 40,
        lane="raw",
        endpoint="e",
        decided_at=at,
    )
