"""raw_weights: the released checkpoint in the store, every digest verified."""

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.progress import log_tenths
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
    """Fetch what is missing; what the store has whole is not asked for again."""
    with clear_failure():
        checkpoint = checkpoints.store().ensure(release, hub.client(), log_tenths(context.log, "fetched", "bytes"))
    return dg.MaterializeResult(
        value=checkpoint,
        data_version=dg.DataVersion(checkpoint.digest),
        metadata={
            "size_bytes": checkpoint.size_bytes,
            "digest": checkpoint.digest,
            "directory": dg.MetadataValue.path(checkpoint.directory),
            "commit_hash": checkpoint.revision.commit_hash,
        },
    )
