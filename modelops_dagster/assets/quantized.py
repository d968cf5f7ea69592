"""lane_plan and <lane>_weights: which lanes a release gets, and the checkpoint that each of them serves."""

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import derivation_metadata, plan_metadata
from modelops_dagster.assets.partitions import models
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.lanes import Lane
from modelops_dagster.domain.plan import LANES_TAG, ReleasePlan, plan_lanes
from modelops_dagster.resources.platform import CheckpointResource
from modelops_dagster.resources.quantization import QuantizerResource


@dg.asset(
    partitions_def=models,
    group_name="model",
    kinds={"policy"},
    code_version="1",
    description="Which lanes the release is sent down on this machine, and why each is or is not taken.",
)
def lane_plan(
    context: dg.AssetExecutionContext, release: Release, quantizer: QuantizerResource
) -> dg.MaterializeResult[ReleasePlan]:
    """Decided from the Hub's metadata and the machine; no weight is needed."""
    with clear_failure():
        wanted = quantizer.wanted(context.run.tags.get(LANES_TAG))
        lanes = plan_lanes(release, quantizer.machine(), quantizer.recipes().by_lane(), wanted)
    plan = ReleasePlan(revision=release.revision, lanes=lanes)
    for lane in lanes:
        context.log.info(f"{lane.lane}: {'taken' if lane.selected else 'not taken'}, {lane.reason}")
    return dg.MaterializeResult(value=plan, metadata=plan_metadata(plan, release))


def quantized_weights(lane: Lane) -> dg.AssetsDefinition:
    """The asset that makes the checkpoint of a quantized lane."""

    @dg.asset(
        name=lane.checkpoint_asset,
        partitions_def=models,
        group_name="model",
        kinds={"llmcompressor"},
        pool="quantizer",
        code_version="1",
        description=f"{lane.description} Made by llm-compressor in an environment of its own, by the lane's recipe.",
    )
    def weights(
        context: dg.AssetExecutionContext,
        raw_weights: Checkpoint,
        quantizer: QuantizerResource,
        checkpoints: CheckpointResource,
    ) -> dg.MaterializeResult[Checkpoint]:
        with clear_failure(), quantizer.pipes(context) as environ:
            require_revision(raw_weights, context.run.tags.get("modelops/commit_hash"))
            recipe = quantizer.recipes().of_lane(lane.name)
            context.log.info(f"quantizing {raw_weights.revision} by {recipe.name}: {recipe.scheme}, {recipe.method}")
            made = quantizer.quantizer(context.op_execution_context).quantize(
                raw_weights, recipe, checkpoints.store(), context.log.info, environ=environ
            )
        return dg.MaterializeResult(
            value=made, data_version=dg.DataVersion(made.digest), metadata=derivation_metadata(made, raw_weights)
        )

    return weights


def require_revision(checkpoint: Checkpoint, commit_hash: str | None) -> None:
    """Make sure that the run is about the revision that is there now.

    Raises:
        UserError: a newer one has come since the run was asked for; its own runs take care of it.
    """
    if commit_hash is not None and checkpoint.revision.commit_hash != commit_hash:
        raise UserError(
            f"{checkpoint.revision} is what there is now, and this run was asked for {commit_hash[:12]}: nothing is "
            "quantized; the newer revision has runs of its own."
        )
