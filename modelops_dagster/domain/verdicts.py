"""The promotion decision: a policy and a Gauntlet report in, pass | fail | hold out, with the numbers."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.values import Value

Outcome = Literal["pass", "fail", "hold"]


class Criterion(Value):
    """One line of the decision: what was asked, what was seen."""

    suite: str
    metric: str
    tier: Literal["required", "advisory"]
    outcome: Outcome
    value: float | None = Field(description="None when the metric is missing")
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    rule: str = Field(description="the bar as a person reads it, e.g. 'lower bound >= 0.60'")


class Verdict(Value):
    """A stored, replayable decision about one endpoint's report."""

    verdict_id: str
    outcome: Outcome
    reason: str = Field(description="one sentence")
    policy: str = Field(description="name of the policy")
    policy_digest: str
    criteria: tuple[Criterion, ...]
    repo_id: str
    commit_hash: str
    lane: str
    endpoint: str
    decided_at: datetime
