"""Rows and verdicts for the tests of the score history."""

from datetime import datetime
from typing import Any

from modelops_dagster.domain.verdicts import Criterion, Verdict
from tests.fakes.values import NOW, a_verdict


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
    return a_verdict(outcome, verdict_id=verdict_id, criteria=(seen,), policy_digest="sha256:0", decided_at=at)
