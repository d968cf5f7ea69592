"""framework_releases: a newer engine or framework becomes an alert, and another try for the models that wait for it."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import dagster as dg

from modelops_dagster.assets.partitions import models as partitions
from modelops_dagster.clients.frameworks import FrameworkClient
from modelops_dagster.domain.alerts import framework_updated
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.frameworks import Framework, FrameworkRelease, FrameworkState, look
from modelops_dagster.domain.lanes import LANES
from modelops_dagster.domain.retries import (
    RETRY_TAG,
    FrameworkCursor,
    Retry,
    helped,
    installed_note,
    retries_for,
    take,
)
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import EngineResource
from modelops_dagster.resources.watch import AlertResource, FrameworkResource

READ_BUDGET_S = 25.0  # a tick may take 60 s; what is not read in this one comes first in the next
MAX_RETRIES_PER_TICK = 25
PARTITIONS = str(partitions.name)
KEPT_TAGS = ("modelops/policy", "modelops/lanes")
LOW_PRIORITY = "-5"  # whatever is new goes first


def framework_sensor(job_name: str, interval_s: int) -> dg.SensorDefinition:
    """The sensor over MODELOPS_FRAMEWORKS.

    Args:
        job_name: what to run for a model that is tried again.
        interval_s: seconds between two looks.
    """

    @dg.sensor(
        name="framework_releases",
        job_name=job_name,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks for newer releases of the frameworks, and tries models again that stand on a lower rung, or "
        "are parked, because an engine did not know their architecture.",
    )
    def framework_releases(
        context: dg.SensorEvaluationContext,
        frameworks: FrameworkResource,
        engines: EngineResource,
        lineage: LineageResource,
        alerts: AlertResource,
    ) -> dg.SensorResult | dg.SkipReason:
        cursor = FrameworkCursor.model_validate_json(context.cursor) if context.cursor else FrameworkCursor()
        with frameworks.client() as client:
            looked, fresh = read_all(client, frameworks.frameworks(), cursor.frameworks, context.log.warning)
        versions = engines.registry().installed_versions()
        watched = set(context.instance.get_dynamic_partitions(PARTITIONS))  # a run of any other model is refused
        models = [m for m in lineage.waiting([lane.name for lane in LANES]) if m.repo_id in watched]
        found = retries_for(fresh, models, versions)
        told = [
            framework_updated(
                release,
                retried=helped(release.framework, found, models),
                notes=installed_note(release.framework, versions),
                at=datetime.now(UTC),
            )
            for release in fresh
        ]
        if not alerts.put(told, context.log.info):
            return dg.SkipReason("The alerts could not be written down, so nothing is taken as seen.")
        cursor = cursor.model_copy(update={"pending": tuple(r for r in cursor.pending if r.repo_id in watched)})
        after, taken = take(cursor.model_copy(update={"frameworks": looked}), found, MAX_RETRIES_PER_TICK)
        for retry in taken:
            context.log.info(f"{retry.repo_id} is tried again because of {retry.because}")
        return dg.SensorResult(
            run_requests=[_request(retry, job_name, context.instance) for retry in taken],
            skip_reason=None if taken else _quiet(fresh, len(models)),
            cursor=after.model_dump_json(),
        )

    return framework_releases


def read_all(
    client: FrameworkClient,
    frameworks: Sequence[Framework],
    states: dict[str, FrameworkState],
    say: Callable[[str], None],
) -> tuple[dict[str, FrameworkState], list[FrameworkRelease]]:
    """Look at the frameworks, the longest unread first, for as long as a tick may take.

    Returns:
        The states of all that are watched, and the new releases.
    """
    deadline = time.monotonic() + READ_BUDGET_S
    after = {f.repo: states.get(f.repo, FrameworkState()) for f in frameworks}
    fresh: list[FrameworkRelease] = []
    for framework in sorted(frameworks, key=lambda f: after[f.repo].looked_at):
        if time.monotonic() > deadline:
            say(f"{framework.repo} was not looked at in this tick; it comes first in the next one.")
            continue
        state = after[framework.repo]
        reading = client.read(framework, state.memory)
        for sentence in reading.unread:
            say(sentence)
        state, found = look(state, reading.releases.values(), answered=reading.answered)
        memory = reading.memory if state.seen is not None else reading.memory.model_copy(update={"etags": {}})
        after[framework.repo] = state.model_copy(update={"memory": memory, "looked_at": time.time()})
        fresh += found
    return after, fresh


def _request(retry: Retry, job_name: str, instance: dg.DagsterInstance) -> dg.RunRequest:
    """The run that onboarded the revision, once more: with its policy and lanes, where it had some of its own."""
    tags = {"dagster/partition": retry.repo_id, "modelops/commit_hash": retry.commit_hash}
    before = instance.get_run_records(dg.RunsFilter(job_name=job_name, tags=tags), limit=1)
    run = before[0].dagster_run if before else None
    kept = {name: run.tags[name] for name in KEPT_TAGS if name in run.tags} if run else {}
    return dg.RunRequest(
        partition_key=retry.repo_id,
        run_key=retry.run_key,
        run_config=run.run_config if run else {"ops": {"release": {"config": {"ref": retry.commit_hash}}}},
        tags={
            **kept,
            "dagster/priority": LOW_PRIORITY,
            "modelops/commit_hash": retry.commit_hash,
            "modelops/source": "framework",
            RETRY_TAG: retry.because,
        },
    )


def _quiet(fresh: Sequence[FrameworkRelease], n_waiting: int) -> str:
    if fresh:
        return f"New: {', '.join(f'{r.framework} {r.version}' for r in fresh)}; no model waits for it."
    return f"No new release; waiting for a newer engine: {counted(n_waiting, 'model')}."
