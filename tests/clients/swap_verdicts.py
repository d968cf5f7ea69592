"""A release, its quantized copies, and verdicts on them: what swaps are decided by."""

from datetime import UTC, datetime

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.report import Incumbent
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import endpoint_name
from modelops_dagster.domain.policies import MarginRule, Policy, Rule, SwapRule
from modelops_dagster.domain.verdicts import Outcome, PairedResult, Verdict
from tests.fakes.values import a_checkpoint, a_verdict, an_endpoint

AT = datetime(2026, 1, 2, tzinfo=UTC)
REVISION = ModelRevision(repo_id="acme/tiny", commit_hash="c" * 40)
ALIAS = REVISION.repo_id
RAW, COPY, OTHER = (endpoint_name(REVISION, lane) for lane in ("raw", "fp8", "awq"))
CANARY = SwapRule(how="canary", hold_s=60, retain_s=3600)


def policy(swap: SwapRule) -> Policy:
    return Policy(
        name="p",
        version=1,
        description="of a test",
        criteria=(Rule(suite="quality", metric="accuracy", min=0.5),),
        against_incumbent=(MarginRule(suite="quality", margin=0.05),),
        swap=swap,
    )


def comparison(incumbent: str, low: float | None) -> PairedResult:
    who = Incumbent(
        endpoint=incumbent, commit_hash="c" * 40, engine="e", engine_version="1", run_id="r",
        interleaved=True, asked_at=AT,
    )  # fmt: skip
    return PairedResult(
        suite="quality", metric="score_vs_incumbent", incumbent=who, instrument="i", n=300, n_asked=300, groups=300,
        candidate=0.7, incumbent_mean=0.7, difference=0.0, low=low, high=0.03, method="bonett_price", deff=1.0,
        better=9, worse=9, mcnemar_p=1.0, margin=0.05, detectable=0.05, harm_e=0.0, stopped_at=None,
        missing_candidate=0.0, missing_incumbent=0.0, missing_p=1.0,
    )  # fmt: skip


def verdict(
    lane: str = "fp8", outcome: Outcome = "pass", *, against: str = RAW, low: float | None = -0.03, at: datetime = AT,
    swap: SwapRule = CANARY,
) -> Verdict:  # fmt: skip
    return a_verdict(
        outcome, verdict_id=f"v-{lane}-{outcome}-{at:%H%M}", policy="p", repo_id=ALIAS, commit_hash="c" * 40, lane=lane,
        endpoint=endpoint_name(REVISION, lane), decided_at=at, policy_document=policy(swap),
        comparisons=(comparison(against, low),) if against else (),
    )  # fmt: skip


def endpoint(lane: str, port: int = 1) -> Endpoint:
    checkpoint = a_checkpoint(ALIAS, REVISION.commit_hash)
    return an_endpoint(name=endpoint_name(REVISION, lane), url=f"http://127.0.0.1:{port}/v1", checkpoint=checkpoint)
