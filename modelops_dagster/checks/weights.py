"""integrity: what the manifest promises is on the disk."""

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.weights import raw_weights
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
    """Hash the checkpoint again and compare."""
    with clear_failure():
        problems = checkpoints.store().verify(raw_weights)
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "every file has its size and digest",
        metadata={"problems": len(problems), "size_bytes": raw_weights.size_bytes},
    )
