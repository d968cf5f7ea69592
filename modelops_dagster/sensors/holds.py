"""reopened_holds: a hold is decided about again once the labels that it waits for are there."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from modelops_dagster.clients.reopening import Waiting, label_mark, waiting_for_labels
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.domain.verdicts.label_plan import are_in
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import GauntletResource, ScoreResource
from modelops_dagster.sensors.endpoints import PARTITION_TAG, UNFINISHED

INTERVAL_S = 30


def hold_sensor(jobs: Mapping[str, Any], suites: Sequence[Suite]) -> dg.SensorDefinition:
    """The sensor over people's labels.

    Args:
        jobs: by lane, the job that decides about a held model again.
    """

    @dg.sensor(
        name="reopened_holds",
        jobs=list(jobs.values()),
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Decides about a held model again, from stored answers, once people gave all the labels that its "
        "hold waits for: what `modelops verdict reopen` does when somebody types it. A tick without new labels reads "
        "how many there are and nothing else.",
    )
    def reopened_holds(
        context: dg.SensorEvaluationContext, gauntlet: GauntletResource, scores: ScoreResource, lineage: LineageResource
    ) -> dg.SensorResult | dg.SkipReason:
        store = scores.store()
        mark = label_mark(store)
        if mark == context.cursor:
            return dg.SkipReason("No new label.")
        waiting = waiting_for_labels(store, suites, gauntlet.graders().admission, datetime.now(UTC))
        ready = [one.hold for one in waiting if are_in(one.needs)]
        runs = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if ready else []
        busy = {run.tags.get(PARTITION_TAG) for run in runs}
        requests = [_request(jobs[v.lane].name, v) for v in ready if v.repo_id not in busy and _is_newest(v, lineage)]
        for one in waiting:
            context.log.info(_said(one, busy))
        quiet = "; ".join(_said(one, busy) for one in waiting)[:1000] or "No open hold waits for labels."
        is_put_off = any(v.repo_id in busy for v in ready)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else quiet,
            cursor=context.cursor if is_put_off else mark,
        )

    return reopened_holds


def _is_newest(hold: Verdict, lineage: LineageResource) -> bool:
    """Whether the endpoint that the lane made last is the one the hold is about."""
    endpoint = lineage.value(f"{hold.lane}/endpoint", hold.repo_id)
    return endpoint is not None and endpoint.checkpoint.revision.commit_hash == hold.commit_hash


def _said(one: Waiting, busy: set[str | None]) -> str:
    about = f"{one.hold.repo_id} ({one.hold.lane})"
    if are_in(one.needs):
        return f"{about} has its labels" + (", and a run of it goes first" if one.hold.repo_id in busy else "")
    return f"{about}: {' '.join(n.said for n in one.needs if n.labels != 0) or 'no label closes its hold.'}"


def _request(job_name: str, hold: Verdict) -> dg.RunRequest:
    """One run a hold: if labels do not close it, people look at why."""
    return dg.RunRequest(
        partition_key=hold.repo_id,
        job_name=job_name,
        run_key=f"{hold.verdict_id}+labels",
        tags={"modelops/commit_hash": hold.commit_hash, "modelops/source": "labels"},
    )
