"""endpoint_health and endpoint_reaper: what the controller sees of endpoints, in Dagster, and what follows from it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field, ValidationError

from modelops_dagster.clients.upkeep import Withdrawn, reap, withdraw_dead
from modelops_dagster.domain.alerts import preview_withdrawn
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.upkeep import UpkeepPolicy, made_by_run
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import ControllerResource, GatewayResource
from modelops_dagster.resources.watch import AlertResource

HEALTH_INTERVAL_S = 30
REAPER_INTERVAL_S = 300
SEEN_AGAIN_AFTER = timedelta(hours=1)
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
PARTITION_TAG = "dagster/partition"


class Seen(Value):
    """What was recorded last of one endpoint, and when."""

    stands: str
    at: datetime


class HealthCursor(Value):
    seen: Mapping[str, Seen] = Field(default_factory=dict)
    gone_since: Mapping[str, datetime] = Field(default_factory=dict, description="of endpoints that only routes name")


def health_sensor(policy: UpkeepPolicy) -> dg.SensorDefinition:
    """The sensor that records how endpoints stand, and withdraws previews that are dead."""

    @dg.sensor(
        name="endpoint_health",
        minimum_interval_seconds=HEALTH_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Records how each endpoint stands as an observation of its asset, when that changed and once an "
        "hour. A preview whose endpoint has failed or been gone for ten minutes is taken out of the gateway.",
    )
    def endpoint_health(
        context: dg.SensorEvaluationContext,
        controller: ControllerResource,
        gateway: GatewayResource,
        alerts: AlertResource,
    ) -> dg.SensorResult | dg.SkipReason:
        now = datetime.now(UTC)
        cursor = _cursor(context.cursor)
        try:
            statuses = controller.client().list()
            routes = gateway.routes()
            known = {s.spec.name for s in statuses}
            own = {t.endpoint for r in routes.list() for t in r.targets if t.provider is None}
            gone_since = {name: cursor.gone_since.get(name, now) for name in sorted(own - known)}
            withdrawn = withdraw_dead(routes, statuses, gone_since, now, policy)
        except ModelOpsError as error:
            return dg.SkipReason(error.sentence)
        for done in withdrawn:
            context.log.info(_told(done))
        told = [preview_withdrawn(done.alias, done.dead, done.route_gone, at=now) for done in withdrawn]
        alerts.put(told, context.log.info)
        due = [s for s in statuses if _is_due(cursor.seen.get(s.spec.name), s, now)]
        fresh = {s.spec.name: Seen(stands=_stands(s), at=now) for s in due}
        kept = {name: seen for name, seen in cursor.seen.items() if name in known}
        after = HealthCursor(seen={**kept, **fresh}, gone_since=gone_since)
        return dg.SensorResult(
            asset_events=[observation(s) for s in due],
            skip_reason=None if due else "Every endpoint stands as it did.",
            cursor=after.model_dump_json(),
        )

    return endpoint_health


def reaper_sensor(policy: UpkeepPolicy) -> dg.SensorDefinition:
    """The sensor that stops, and later deletes, endpoints that nobody holds a lease on."""

    @dg.sensor(
        name="endpoint_reaper",
        minimum_interval_seconds=REAPER_INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops an endpoint that a run made and that no route, run or verdict of hold needs any more, and "
        "deletes it after a week at rest. What a person made is never touched.",
    )
    def endpoint_reaper(
        context: dg.SensorEvaluationContext,
        controller: ControllerResource,
        gateway: GatewayResource,
        lineage: LineageResource,
    ) -> dg.SkipReason:
        runs = context.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        busy = {run.tags[PARTITION_TAG] for run in runs if PARTITION_TAG in run.tags}
        try:
            said = reap(
                gateway.routes(),
                controller.client(),
                busy=busy,
                on_hold=_on_hold(controller.client().list(), lineage),
                now=datetime.now(UTC),
                policy=policy,
            )
        except ModelOpsError as error:
            return dg.SkipReason(error.sentence)
        for line in said:
            context.log.info(line)
        return dg.SkipReason("; ".join(said)[:1000] or "Every endpoint is held by somebody, or too young.")

    return endpoint_reaper


def observation(status: EndpointStatus) -> dg.AssetObservation:
    """How the endpoint stands, of the lane's asset when a run made it, else of an asset of its own."""
    made = made_by_run(status.spec)
    told = {
        "state": str(status.state),
        "condition": status.condition,
        "desired": status.desired,
        "url": status.url,
        "served_model_name": status.spec.served_model_name,
        "engine": status.spec.engine or "external",
        "since": status.since.isoformat(),
        "restarts": status.restarts,
        "start_seconds": status.start_seconds,
        "message": status.message or None,
        "endpoint": status.spec.name,
    }
    return dg.AssetObservation(
        asset_key=[made.lane, "endpoint"] if made else ["endpoints", status.spec.name],
        partition=made.revision.repo_id if made else None,
        description=_stands(status),
        metadata={name: value for name, value in told.items() if value is not None},
    )


def _on_hold(statuses: Sequence[EndpointStatus], lineage: LineageResource) -> set[str]:
    """Endpoints whose newest verdict is a hold: more answers of theirs may be wanted."""
    held = set()
    for status in statuses:
        made = made_by_run(status.spec)
        verdict: Verdict | None = lineage.value(f"{made.lane}/verdict", made.revision.repo_id) if made else None
        if verdict is not None and verdict.outcome == "hold" and verdict.endpoint == status.spec.name:
            held.add(status.spec.name)
    return held


def _is_due(seen: Seen | None, status: EndpointStatus, now: datetime) -> bool:
    return seen is None or seen.stands != _stands(status) or now - seen.at >= SEEN_AGAIN_AFTER


def _stands(status: EndpointStatus) -> str:
    """State and condition as one word or two."""
    return f"{status.state} ({status.condition})" if status.condition else str(status.state)


def _told(done: Withdrawn) -> str:
    rest = "nothing is left behind it" if done.route_gone else "the rest of the route stays"
    return (
        f"{done.alias}: withdrew " + "; ".join(f"{name}, which {why}" for name, why in done.dead.items()) + f"; {rest}"
    )


def _cursor(text: str | None) -> HealthCursor:
    try:
        return HealthCursor.model_validate_json(text) if text else HealthCursor()
    except ValidationError:
        return HealthCursor()  # of an earlier version: everything is recorded once more
