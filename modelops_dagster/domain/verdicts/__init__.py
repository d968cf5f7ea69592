"""The promotion decision: a policy and the Gauntlet's reports in, pass | fail | hold out, with the numbers."""

from modelops_dagster.domain.policies import Policy, shown
from modelops_dagster.domain.verdicts.decision import (
    CategoryLoss,
    Criterion,
    Outcome,
    PairedResult,
    SuiteEvidence,
    Verdict,
)
from modelops_dagster.domain.verdicts.judging import Case, decide, judge
from modelops_dagster.domain.verdicts.pairing import Arms, compare_arms, require_detectable_policy
from modelops_dagster.domain.verdicts.wording import samples_to_settle

__all__ = [
    "Arms",
    "Case",
    "CategoryLoss",
    "Criterion",
    "Outcome",
    "PairedResult",
    "Policy",
    "SuiteEvidence",
    "Verdict",
    "compare_arms",
    "decide",
    "judge",
    "require_detectable_policy",
    "samples_to_settle",
    "shown",
]
