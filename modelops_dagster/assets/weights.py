"""raw_weights: the released checkpoint in the store, every digest verified; and the rehearsal held meanwhile."""

from contextlib import nullcontext
from pathlib import Path

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import hub_link, rehearsal_metadata, table
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.progress import log_changes, log_transfer
from modelops_dagster.clients.rehearsal import Rehearsing
from modelops_dagster.domain.architectures import ruled_out
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.rehearsal import Rehearsal, why_none
from modelops_dagster.domain.summary import files_table
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import CheckpointResource, ControllerResource, EngineResource, HubResource


@dg.asset(
    partitions_def=models,
    group_name="model",
    kinds={"safetensors"},
    code_version="1",
    description="The checkpoint as released, fetched once and verified file by file against the Hub's digests. Where "
    "there is room, engines are tried with made-up weights meanwhile.",
)
def raw_weights(
    context: dg.AssetExecutionContext,
    release: Release,
    hub: HubResource,
    checkpoints: CheckpointResource,
    engines: EngineResource,
    controller: ControllerResource,
    lineage: LineageResource,
) -> dg.MaterializeResult[Checkpoint]:
    """Fetch what is missing or damaged; what the store has whole is not asked for again."""
    with clear_failure():
        store = checkpoints.store()
        rehearsing, none = _rehearsing(context, release, hub, checkpoints, engines, controller)
        with rehearsing or nullcontext():
            done = store.deliver(release, hub.client(), log_transfer(context.log, "fetched"))
    held = rehearsing.result() if rehearsing else Rehearsal(revision=release.revision, note=none)
    lineage.keep("rehearsal", context.partition_key, context.run.run_id, held)
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
            "files": table(files_table(release)),
            "hub": hub_link(release),
            "digest": checkpoint.digest,
            "directory": dg.MetadataValue.path(checkpoint.directory),
            "commit_hash": checkpoint.revision.commit_hash,
            "remote_code": checkpoint.remote_code,
            **rehearsal_metadata(held),
        },
    )


def _rehearsing(
    context: dg.AssetExecutionContext,
    release: Release,
    hub: HubResource,
    checkpoints: CheckpointResource,
    engines: EngineResource,
    controller: ControllerResource,
) -> tuple[Rehearsing | None, str]:
    """A rehearsal that is about to begin, or why there is none."""
    store, revision, seen = checkpoints.store(), release.revision, release.preflight
    reason = why_none(release, engines.rehearsal, ())
    if seen is None or reason is not None:
        return None, reason or ""
    if store.load(revision) is not None:
        return None, "The weights were here already."
    try:
        client, registry = controller.client(), engines.registry()
        running = [status.spec.name for status in client.list() if status.desired == "Running"]
        if (reason := why_none(release, engines.rehearsal, running)) is not None:
            return None, reason
        versions = registry.installed_versions()
        rungs = registry.rungs(engines.accelerator, release.architectures, revision.repo_id)
        known = ruled_out(rungs, seen.supports, versions)
        return Rehearsing(
            release,
            hub.client(),
            client,
            registry,
            Path(engines.rehearsals) / revision.repo_id.replace("/", "@") / revision.commit_hash,
            [rung for rung in rungs if rung not in known],
            versions,
            max_context=engines.max_context,
            timeout_s=engines.rehearsal_timeout_s,
            progress=log_changes(context.log),
            code_allowed=store.allows_code(revision),
            placements=engines.placements(seen),
            overlays=engines.overlays(revision.repo_id, rungs),
        ), ""
    except ModelOpsError as error:  # the ladder meets the same trouble later, and then it counts
        return None, f"It could not begin: {error.sentence}"
