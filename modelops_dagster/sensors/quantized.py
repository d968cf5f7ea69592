"""quantized_lanes: after the verdict on the released weights, the lanes of the plan, at low priority."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from modelops_dagster.domain.lanes import QUANTIZED_LANES
from modelops_dagster.domain.plan import ReleasePlan
from modelops_dagster.domain.retries import RETRY_TAG
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.domain.watchlist import POLICY_TAG
from modelops_dagster.resources.lineage import LineageResource

RAW_VERDICT = dg.AssetKey(["raw", "verdict"])
INTERVAL_S = 15
MAX_PER_TICK = 100
LOW_PRIORITY = "-5"  # whatever is new goes first


def quantized_sensor(jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    """The sensor over verdicts of the raw lane.

    Args:
        jobs: the asset job of each quantized lane, by the lane's name.
    """

    @dg.sensor(
        name="quantized_lanes",
        jobs=list(jobs.values()),
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Requests the quantized lanes that a release's plan selects, once its raw weights have a verdict. "
        "A lane that is not taken is named with its reason; a failure of one lane never holds another.",
    )
    def quantized_lanes(context: dg.SensorEvaluationContext, lineage: LineageResource) -> dg.SensorResult:
        if context.cursor is None:
            newest = context.instance.fetch_materializations(RAW_VERDICT, limit=1).records
            after = newest[0].storage_id if newest else 0
            return dg.SensorResult(skip_reason="First look: what was judged before stays as it is.", cursor=str(after))
        records = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=RAW_VERDICT, after_storage_id=int(context.cursor)),
            limit=MAX_PER_TICK,
            ascending=True,
        ).records
        requests: list[dg.RunRequest] = []
        said: list[str] = []
        for record in records:
            if record.partition_key is None:
                continue
            verdict = lineage.value("raw/verdict", record.partition_key, record.run_id)
            plan = lineage.value("lane_plan", record.partition_key, record.run_id)
            run = context.instance.get_run_by_id(record.run_id)
            found, reasons = decide(verdict, plan)
            tags = run.tags if run else {}
            requests += [_request(jobs[lane].name, lane, verdict, tags) for lane in found]  # type: ignore[arg-type]
            said += reasons
        for line in said:
            context.log.info(line)
        after = records[-1].storage_id if records else int(context.cursor)
        quiet = "; ".join(said)[:1000] or "No new verdict on released weights."
        return dg.SensorResult(run_requests=requests, skip_reason=None if requests else quiet, cursor=str(after))

    return quantized_lanes


def decide(verdict: Verdict | None, plan: ReleasePlan | None) -> tuple[list[str], list[str]]:
    """The lanes to request, and a line for each that is not.

    Args:
        verdict: on the raw weights.
        plan: of the same release; None when none was made.
    """
    if verdict is None:
        return [], []
    name = f"{verdict.repo_id}@{verdict.commit_hash[:12]}"
    if plan is None or plan.revision.commit_hash != verdict.commit_hash:
        return [], [f"{name}: no plan was made for this revision, so it stays with its raw weights"]
    if verdict.outcome == "fail":
        return [], [f"{name}: the released weights failed, so no copy of them is quantized"]
    reasons = {p.lane: p.reason for p in plan.lanes if not p.selected}
    lanes = [lane.name for lane in QUANTIZED_LANES if plan.selected(lane.name)]
    return lanes, [f"{name}: {lane} is not taken, {reason}" for lane, reason in reasons.items()]


def _request(job_name: str, lane: str, verdict: Verdict, tags: Mapping[str, str]) -> dg.RunRequest:
    """One run per revision and lane; one more when a newer engine made the raw lane run again."""
    again = f"+{tags[RETRY_TAG].replace(' ', '@')}" if RETRY_TAG in tags else ""
    kept = {name: tags[name] for name in (POLICY_TAG, RETRY_TAG) if name in tags}
    return dg.RunRequest(
        partition_key=verdict.repo_id,
        job_name=job_name,
        run_key=f"{verdict.repo_id}@{verdict.commit_hash}+{lane}{again}",
        tags={
            **kept,
            "dagster/priority": LOW_PRIORITY,
            "modelops/commit_hash": verdict.commit_hash,
            "modelops/source": "day-2",
        },
    )
