"""recovery: what a quantized checkpoint kept of its original, before an endpoint is spent on it."""

from collections.abc import Iterator

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import recovery_metadata
from modelops_dagster.assets.partitions import models
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.lanes import Lane
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.quantization import QuantizerResource


def recovery_check(lane: Lane) -> dg.AssetChecksDefinition:
    """Blocks the lane when the checkpoint is broken or lost more than the policy allows. Other lanes go on."""

    @dg.asset_check(  # type: ignore[arg-type] # a generator, so that the result is recorded before the failure
        asset=lane.checkpoint_asset,
        name="recovery",
        blocking=True,
        partitions_def=models,
        additional_ins={"raw_weights": dg.AssetIn("raw_weights")},
        description="Files are finite, of the expected types and smaller; it loads; and on held-out text it says "
        "nearly what the original says. Blocks: an endpoint costs more than this comparison.",
    )
    def recovery(
        context: dg.AssetCheckExecutionContext,
        weights: Checkpoint,
        raw_weights: Checkpoint,
        quantizer: QuantizerResource,
        lineage: LineageResource,
    ) -> Iterator[dg.AssetCheckResult]:
        step, repo_id = context.op_execution_context, weights.revision.repo_id
        with clear_failure(), quantizer.pipes(step) as environ:
            found = quantizer.quantizer(step).compare(
                raw_weights,
                weights,
                quantizer.policy(),
                lane.name,
                context.log.info,
                environ=environ,
                known=lineage.value(f"{lane.name}/recovery", repo_id),
            )
            lineage.keep(f"{lane.name}/recovery", repo_id, step.run_id, found)
        context.log.info(f"{found.outcome}: {found.reason}")
        yield dg.AssetCheckResult(
            passed=found.outcome == "pass",
            severity=dg.AssetCheckSeverity.ERROR if found.outcome == "block" else dg.AssetCheckSeverity.WARN,
            description=found.reason,
            metadata=recovery_metadata(found),
        )
        if found.outcome == "block":  # the run would fail all the same, and not say why
            raise dg.Failure(
                description=f"{found.revision} is not served in {found.scheme}: {found.reason}.", allow_retries=False
            )

    return recovery
