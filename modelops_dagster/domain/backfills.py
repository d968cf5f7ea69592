"""A backfill: one suite asked of many models, each with an outcome of its own."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.values import Value

BackfillOutcome = Literal["evaluated", "rescored", "current", "unreachable", "failed"]


class Target(Value):
    """One model in one lane, by the endpoint that was evaluated last."""

    lane: str
    endpoint: Endpoint
    running: bool = Field(default=False, description="it answers now; asking it wakes nobody")

    @property
    def repo_id(self) -> str:
        return self.endpoint.checkpoint.revision.repo_id


class Done(Value):
    """What came of one target."""

    target: Target
    outcome: BackfillOutcome
    reason: str = Field(default="", description="why it was not asked, or is still awake; else empty")
    report: SuiteReport | None = None
    started_at: datetime
    ended_at: datetime

    def row(self, run_id: str, suite: str, suite_digest: str) -> Row:
        """The `backfills` row."""
        revision = self.target.endpoint.checkpoint.revision
        return {
            "run_id": run_id,
            "repo_id": revision.repo_id,
            "commit_hash": revision.commit_hash,
            "lane": self.target.lane,
            "endpoint": self.target.endpoint.name,
            "suite": suite,
            "suite_digest": suite_digest,
            "outcome": self.outcome,
            "reason": self.reason or None,
            "seconds": (self.ended_at - self.started_at).total_seconds(),
            "n_samples": self.report.n_samples if self.report is not None else 0,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }


def in_order(targets: Iterable[Target]) -> list[Target]:
    """Running endpoints first, while they run: waking one may put another to sleep. Sleeping ones after them, each to
    be woken once, those of one engine one after the other."""
    return sorted(targets, key=lambda t: (not t.running, t.endpoint.engine, t.repo_id, t.lane))
