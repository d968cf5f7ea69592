"""What a decision is, and everything it rests on: enough to compute it again from stored rows."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.report import Incumbent, Metric, SuiteReport
from modelops_dagster.domain.gauntlet.suite import MetricSpec, SuiteKind
from modelops_dagster.domain.policies import Policy, Tier
from modelops_dagster.domain.statistics.paired import Method
from modelops_dagster.domain.values import Value

Outcome = Literal["pass", "fail", "hold"]


class Criterion(Value):
    """One line of the decision: what was asked, what was seen."""

    suite: str
    metric: str
    tier: Tier
    outcome: Outcome
    value: float | None = Field(description="None when the metric is missing")
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    rule: str = Field(description="the bar as a person reads it, e.g. 'lower bound >= 0.60'")
    note: str = Field(default="", description="why it is missing or waived, or what would settle it; empty when plain")


class SuiteEvidence(Value):
    """What of a suite's report a decision rests on. The metrics follow from the stored rows of the run."""

    suite: str
    kind: SuiteKind
    run_id: str
    suite_digest: str
    instrument: str
    metrics: tuple[Metric, ...]
    specs: tuple[MetricSpec, ...] = ()
    n_samples: int
    n_unscored: int
    n_reserve: int = Field(default=0, description="samples the suite keeps back")
    failing: tuple[str, ...] = ()
    calibrations: tuple[Calibration, ...] = Field(default=(), description="of the graders whose verdicts are scores")
    withdrawn: tuple[str, ...] = Field(default=(), description="admissions that the run withdrew, as clauses")

    @classmethod
    def of(cls, report: SuiteReport) -> "SuiteEvidence":
        """The evidence in a report."""
        return cls(**{name: getattr(report, name) for name in cls.model_fields})

    @property
    def skill(self) -> float:
        """How much of a true difference between two models is seen at least: 1 where code scores.

        A grader of sensitivity se and specificity sp shows se + sp - 1 of it (Rogan and Gladen 1978).
        """
        return min((c.skill.low for c in self.calibrations if c.skill is not None), default=1.0)

    def metric(self, name: str) -> Metric | None:
        return next((m for m in self.metrics if m.name == name), None)


class CategoryLoss(Value):
    """One category of a comparison. Shown, never decisive."""

    category: str
    n: int = Field(description="pairs")
    difference: float = Field(description="candidate minus incumbent")
    p: float = Field(description="one-sided exact sign test against 'not worse'")
    flagged: bool = Field(description="worse at a false discovery rate of 10 % over all categories")


class PairedResult(Value):
    """Candidate against incumbent on one suite, pair by pair."""

    suite: str
    metric: str
    incumbent: Incumbent
    instrument: str
    n: int = Field(description="pairs: samples that both arms have a score for")
    n_asked: int = Field(description="samples asked of both arms")
    groups: int = Field(description="clusters of samples behind the interval")
    candidate: float | None = Field(description="weighted mean of the candidate over the pairs; None without a pair")
    incumbent_mean: float | None
    difference: float | None = Field(description="candidate minus incumbent; None with fewer than two pairs")
    low: float | None = Field(description="one-sided lower bound")
    high: float | None = Field(description="one-sided upper bound")
    method: Method | None
    deff: float = Field(description="variance inflation by clusters")
    better: int = Field(description="pairs only the candidate got right, or got more of")
    worse: int = Field(description="pairs only the incumbent got right, or got more of")
    mcnemar_p: float = Field(description="two-sided exact p-value over the pairs that differ")
    margin: float
    detectable: float = Field(description="smallest margin that so many pairs could show, at the policy's power")
    harm_e: float = Field(description="highest e-value of harm over the looks, up to the one that stopped; 20 stops")
    stopped_at: int | None = Field(description="pair at which it was stopped for harm")
    missing_candidate: float = Field(description="share of unscored answers")
    missing_incumbent: float
    missing_p: float = Field(description="two-sided Fisher exact p-value of their difference")
    breach: str = Field(default="", description="why missing answers forbid a conclusion; empty when they do not")
    categories: tuple[CategoryLoss, ...] = ()


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
    closes_at: datetime | None = Field(
        default=None, description="until then more evidence may close a hold; afterwards it stays under shadow"
    )
    reopens: str | None = Field(default=None, description="id of the hold on the same revision and lane before it")
    comparisons: tuple[PairedResult, ...] = ()
    incumbent_note: str = Field(default="", description="why no incumbent was compared with, as a clause")
    evidence: tuple[SuiteEvidence, ...] = ()
    policy_document: Policy | None = Field(default=None, description="the policy in full, as it was")
