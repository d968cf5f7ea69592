"""integrity: what the manifest promises is on the disk."""

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.weights import raw_weights
from modelops_dagster.clients.checkpoints.store import VERIFIED_FOR_S
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.resources.platform import CheckpointResource


@dg.asset_check(
    asset=raw_weights,
    blocking=True,
    partitions_def=models,
    description="Every file of the manifest is there with its size and digest. Blocks: a changed byte is never served.",
)
def integrity(
    context: dg.AssetCheckExecutionContext, raw_weights: Checkpoint, checkpoints: CheckpointResource
) -> dg.AssetCheckResult:
    """Compare every byte with the manifest, unless that was done a moment ago and no file was written to since."""
    with clear_failure():
        problems = checkpoints.store().verify(raw_weights, verified_for_s=VERIFIED_FOR_S)
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "every file has its size and digest",
        metadata={"problems": len(problems), "size_bytes": raw_weights.size_bytes},
    )
