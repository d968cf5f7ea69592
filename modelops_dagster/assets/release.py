"""release: what the Hub says about one revision, before any weight is fetched."""

import dagster as dg
from pydantic import Field

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.partitions import models
from modelops_dagster.domain.hub import Release
from modelops_dagster.resources.platform import HubResource


class ReleaseConfig(dg.Config):
    """Which revision to onboard."""

    ref: str = Field(default="main", description="Branch, tag or 40-digit commit hash on the Hub.")


@dg.asset(
    partitions_def=models,
    group_name="model",
    kinds={"huggingface"},
    description="One revision of a model: files, digests, architecture, licence, gating. JSON only, no weights.",
)
def release(
    context: dg.AssetExecutionContext, config: ReleaseConfig, hub: HubResource
) -> dg.MaterializeResult[Release]:
    """Resolve the ref to a commit and read what the Hub knows about it."""
    with clear_failure():
        client = hub.client()
        revision = client.resolve(context.partition_key, config.ref)
        found = client.release(revision)
    context.log.info(f"{context.partition_key}: {config.ref} is {revision.commit_hash}, {len(found.files)} files")
    return dg.MaterializeResult(
        value=found,
        data_version=dg.DataVersion(revision.commit_hash),
        metadata={
            "weight_bytes": found.weight_bytes,
            "parameters": found.parameters or 0,
            "max_context": found.max_context or 0,
            "hub": dg.MetadataValue.url(f"{found.hub_url}/{revision.repo_id}"),
            "commit_hash": revision.commit_hash,
            "architectures": ", ".join(found.architectures) or "not stated",
            "license": found.license or "not stated",
            "gated": found.gated or "no",
            "quantization": found.quantization or "none",
            "has_chat_template": found.has_chat_template,
        },
    )
