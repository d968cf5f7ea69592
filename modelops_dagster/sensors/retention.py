"""prune_checkpoints: retention of the checkpoint store as a job, and a nightly schedule that is off until asked for."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import table
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.retention import RetentionPolicy, parse_duration
from modelops_dagster.resources.platform import CheckpointResource


class PruneConfig(dg.Config):
    """What is kept although nobody uses it."""

    keep: int = Field(default=2, ge=0, description="Newest checkpoints of each repository and scheme.")
    older_than: str = Field(
        default="30d", description="Keep what was asked for within this time; a number and s, m, h, d or w."
    )
    dry_run: bool = Field(default=False, description="Delete nothing, and say what would be.")


@dg.op(description="Delete checkpoints that no route and no endpoint uses, that are not pinned, and that are old.")
def prune(context: dg.OpExecutionContext, config: PruneConfig, checkpoints: CheckpointResource) -> None:
    with clear_failure():
        policy = RetentionPolicy(keep=config.keep, older_than_s=parse_duration(config.older_than))
        done = checkpoints.prune(policy, datetime.now(UTC), dry_run=config.dry_run)
    rows = [
        {
            "checkpoint": str(d.checkpoint.revision),
            "scheme": d.checkpoint.scheme,
            "bytes": d.checkpoint.size_bytes,
            "decision": "keep" if d.keep else "delete",
            "reason": d.reason,
        }
        for d in done.decisions
    ]
    context.log.info(
        f"{counted(len(done.deleted), 'checkpoint')}, {done.freed_bytes:,} bytes"
        + (" (dry run)" if done.dry_run else "")
    )
    context.add_output_metadata(
        {"freed_bytes": done.freed_bytes, "deleted": len(done.deleted), "checkpoints": table(rows)}
    )


@dg.job(description="Retention of the checkpoint store: the same as `modelops models prune`.")
def prune_checkpoints() -> None:
    prune()


# off by default: a schedule that deletes is turned on by somebody who has looked at a dry run
prune_nightly = dg.ScheduleDefinition(
    name="prune_checkpoints_nightly",
    job=prune_checkpoints,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Prunes the checkpoint store at night, once it is turned on.",
)
