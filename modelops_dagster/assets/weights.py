"""raw_weights: the released checkpoint in the store, every digest verified."""

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.progress import log_transfer
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.hub import Release
from modelops_dagster.resources.platform import CheckpointResource, HubResource


@dg.asset(
    partitions_def=models,
    group_name="model",
    kinds={"safetensors"},
    description="The checkpoint as released, fetched once and verified file by file against the Hub's digests.",
)
def raw_weights(
    context: dg.AssetExecutionContext, release: Release, hub: HubResource, checkpoints: CheckpointResource
) -> dg.MaterializeResult[Checkpoint]:
    """Fetch what is missing or damaged; what the store has whole is not asked for again."""
    with clear_failure():
        done = checkpoints.store().deliver(release, hub.client(), log_transfer(context.log, "fetched"))
    checkpoint = done.checkpoint
    for path in done.repaired:
        context.log.warning(f"{path} was damaged, and is whole again")
    return dg.MaterializeResult(
        value=checkpoint,
        data_version=dg.DataVersion(checkpoint.digest),
        metadata={
            "size_bytes": checkpoint.size_bytes,
            "fetched_bytes": done.fetched_bytes,
            "reused_bytes": done.reused_bytes,
            "repaired_files": len(done.repaired),
            "seconds": round(done.seconds, 2),
            "digest": checkpoint.digest,
            "directory": dg.MetadataValue.path(checkpoint.directory),
            "commit_hash": checkpoint.revision.commit_hash,
            "remote_code": checkpoint.remote_code,
        },
    )
