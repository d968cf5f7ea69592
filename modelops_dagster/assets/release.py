"""release: what the Hub says about one revision, before any weight is fetched."""

import dagster as dg
from pydantic import Field

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import findings_metadata, hub_link, preflight_metadata
from modelops_dagster.assets.partitions import models
from modelops_dagster.clients.preflight import preflight as look
from modelops_dagster.clients.preflight import require_passed
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import HubResource, PreflightResource


class ReleaseConfig(dg.Config):
    """Which revision to onboard."""

    ref: str = Field(default="main", description="Branch, tag or 40-digit commit hash on the Hub.")
    accept: list[str] = Field(
        default=[], description="Codes of findings that do not block this time, e.g. too_large or no_engine."
    )


@dg.asset(
    partitions_def=models,
    group_name="model",
    kinds={"huggingface"},
    code_version="1",
    dagster_type=dg.Any,
    check_specs=[
        dg.AssetCheckSpec(
            "preflight",
            asset="release",
            blocking=True,
            partitions_def=models,
            description="No finding blocks: an engine here can load it, it fits, and its files and terms hold. Blocks: "
            "fetching weights costs more than reading a few small files.",
        )
    ],
    description="One revision of a model: files, digests, licence, gating, and the preflight: which engine can load "
    "it, what it needs, what is wrong with it. JSON only, no weights. Fails when it cannot be served here.",
)
def release(  # type: ignore[no-untyped-def] # a generator, so that the check is recorded before the failure
    context: dg.AssetExecutionContext,
    config: ReleaseConfig,
    hub: HubResource,
    preflight: PreflightResource,
    lineage: LineageResource,
):
    """Resolve the ref to a commit, read what the Hub knows about it, and judge it before any weight is fetched."""
    with clear_failure():
        client = hub.client()
        revision = client.resolve(context.partition_key, config.ref)
        read = client.release(revision)
        seen = look(read, client, preflight.surroundings(), config.accept)
        found = read.model_copy(update={"preflight": seen})
        what = str(revision) if config.ref == revision.commit_hash else f"{revision}, which {config.ref} stands at"
        context.log.info(f"{what}: {counted(len(found.files), 'file')}")
    yield _check(seen)
    with clear_failure(), lineage.stopping(found, context.run.run_id):
        require_passed(revision, seen)
    context.log.info(seen.summary)
    yield dg.MaterializeResult(
        value=found,
        data_version=dg.DataVersion(revision.commit_hash),
        metadata={
            "weight_bytes": found.weight_bytes,
            "parameters": found.parameters or 0,
            "max_context": found.max_context or 0,
            **preflight_metadata(seen),
            "hub": hub_link(found),
            "commit_hash": revision.commit_hash,
            "architectures": ", ".join(found.architectures) or "not stated",
            "license": found.license or "not stated",
            "gated": found.gated or "no",
            "quantization": found.quantization or "none",
            "has_chat_template": found.has_chat_template,
        },
    )


def _check(seen: Preflight) -> dg.AssetCheckResult:
    blocking = " ".join(f.sentence for f in seen.blocking)
    return dg.AssetCheckResult(
        check_name="preflight",
        passed=not blocking,
        description=blocking or seen.summary,
        metadata=findings_metadata(seen),
    )
