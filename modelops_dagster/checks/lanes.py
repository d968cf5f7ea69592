"""The checks of a lane: is the model on the first rung, and may developers call it."""

import dagster as dg

from modelops_dagster.assets.metadata import promotion_metadata, table
from modelops_dagster.assets.partitions import models
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.lanes import Lane
from modelops_dagster.domain.summary import ladder_table
from modelops_dagster.domain.verdicts import Verdict


def lane_checks(lane: Lane) -> list[dg.AssetChecksDefinition]:
    """Neither blocks: standing on a lower rung and failing the Gauntlet are results, not failures of the machinery."""

    @dg.asset_check(
        asset=[lane.name, "endpoint"],
        name="first_rung",
        partitions_def=models,
        description="The model stands on the first rung of the ladder; if not, why each rung above was left.",
    )
    def first_rung(endpoint: Endpoint) -> dg.AssetCheckResult:
        left = [r for r in endpoint.ladder if r.reason]
        return dg.AssetCheckResult(
            passed=not left,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(f"{r.rung}: {r.reason} ({r.detail})" for r in left) or endpoint.rung,
            metadata={
                "rungs_left": len(left),
                "tokens_per_second": endpoint.tokens_per_second,
                "ladder": table(ladder_table(endpoint)),
            },
        )

    @dg.asset_check(
        asset=[lane.name, "verdict"],
        name="promotion",
        partitions_def=models,
        description="The verdict is a pass, so developers with the preview tag can call the model.",
    )
    def promotion(verdict: Verdict) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            passed=verdict.outcome == "pass",
            severity=dg.AssetCheckSeverity.ERROR if verdict.outcome == "fail" else dg.AssetCheckSeverity.WARN,
            description=verdict.reason,
            metadata=promotion_metadata(verdict),
        )

    return [first_rung, promotion]
