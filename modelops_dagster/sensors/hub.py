"""hub_releases: a new commit of a whitelisted organisation becomes a partition and one onboard run."""

import dagster as dg

from modelops_dagster.assets.partitions import models
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.watcher import WatcherState, detect
from modelops_dagster.resources.platform import HubResource


def hub_sensor(job_name: str, interval_s: int) -> dg.SensorDefinition:
    """The sensor over the organisations in MODELOPS_HUB_ORGS.

    Args:
        job_name: what to run for a new revision.
        interval_s: seconds between two looks at the Hub.
    """

    @dg.sensor(
        name="hub_releases",
        job_name=job_name,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares what each organisation has published with what was seen before, by commit.",
    )
    def hub_releases(context: dg.SensorEvaluationContext, hub: HubResource) -> dg.SensorResult | dg.SkipReason:
        if not hub.orgs:
            return dg.SkipReason("No organisation is watched: set MODELOPS_HUB_ORGS=org,org and restart `modelops up`.")
        state = WatcherState.model_validate_json(context.cursor) if context.cursor else WatcherState()
        client = hub.client()
        found = []
        unread: list[str] = []
        for org in hub.orgs:
            try:
                listing = client.list_org(org)
            except ModelOpsError as error:  # one organisation that cannot be read leaves the others' state alone
                unread.append(f"{org}: {error.sentence}")
                continue
            state, detections = detect(state, org, listing)
            found.extend(detections)
        for line in unread:
            context.log.warning(line)
        for d in found:
            context.log.info(f"{d.repo_id}@{d.commit_hash[:12]}: {d.decision}, {d.reason}")
        onboard = [d for d in found if d.decision == "onboard"]
        return dg.SensorResult(
            dynamic_partitions_requests=[models.build_add_request([d.repo_id for d in onboard])] if onboard else [],
            run_requests=[
                dg.RunRequest(
                    partition_key=d.repo_id,
                    run_key=f"{d.repo_id}@{d.commit_hash}",
                    run_config={"ops": {"release": {"config": {"ref": d.commit_hash}}}},
                    tags={"dagster/priority": "3", "modelops/commit_hash": d.commit_hash, "modelops/source": "hub"},
                )
                for d in onboard
            ],
            skip_reason=None if onboard else ("; ".join(unread) or "No new commit."),
            cursor=state.model_dump_json(),
        )

    return hub_releases
