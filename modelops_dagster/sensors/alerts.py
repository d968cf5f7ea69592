"""alerts: what happened since the last tick, read from Dagster's own records, is queued and sent."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import dagster as dg

from modelops_dagster.domain.alerts import (
    Alert,
    AlertCursor,
    new_release,
    run_failed,
    verdict_reached,
    watch_deadlines,
)
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.lanes import LANES
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.watch import AlertResource

MAX_PER_TICK = 200  # of each kind; the rest comes with the next tick
SEND_BUDGET_S = 20.0
SETTLE = timedelta(seconds=3)  # Dagster says a moment after the failure whether it starts the run again
DETECTED_BY = ["hub", "webhook"]  # values of the tag modelops/source


def alert_sensor(interval_s: int, dagster_url: str, hub_url: str) -> dg.SensorDefinition:
    """The sensor that tells people.

    Args:
        interval_s: seconds between two ticks.
        dagster_url: base URL of the UI, for links.
        hub_url: base URL of the Hub, for links.
    """

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Turns failures, verdicts, new releases and late models into alerts, and sends what is queued.",
    )
    def alerts_tick(
        context: dg.SensorEvaluationContext, alerts: AlertResource, lineage: LineageResource
    ) -> dg.SensorResult:
        now = datetime.now(UTC)
        events = Events(context.instance, lineage, dagster_url, hub_url)
        if context.cursor:
            before = AlertCursor.model_validate_json(context.cursor)
            after, found = events.since(before, now)
        else:
            before, after, found = None, events.baseline(now), []
        written = alerts.put(found, context.log.info)
        said = alerts.flush(context.log.warning, SEND_BUDGET_S)
        cursor = after if written else before
        return dg.SensorResult(
            skip_reason=f"{counted(len(found), 'event')}; {said}", cursor=cursor.model_dump_json() if cursor else None
        )

    return alerts_tick


class Events:
    """What Dagster recorded, as alerts. Every question to the instance is limited in number."""

    def __init__(self, instance: dg.DagsterInstance, lineage: LineageResource, dagster_url: str, hub_url: str) -> None:
        self._instance, self._lineage = instance, lineage
        self._dagster_url, self._hub_url = dagster_url, hub_url

    def baseline(self, now: datetime) -> AlertCursor:
        """Nothing that happened before the first tick is told."""
        newest = {
            key: self._instance.fetch_materializations(_asset_key(key), limit=1).records for key in _verdict_assets()
        }
        ids = {key: records[0].storage_id if records else 0 for key, records in newest.items()}
        return AlertCursor(runs_after=now - SETTLE, created_after=now, verdicts_after=ids)

    def since(self, cursor: AlertCursor, now: datetime) -> tuple[AlertCursor, list[Alert]]:
        """The next cursor, and an alert for everything that happened after the last one."""
        created_after, detected, new = self._new_releases(cursor.created_after)
        ids, verdicts = self._verdicts(cursor.verdicts_after)
        runs_after, failed = self._failures(cursor.runs_after, now - SETTLE)
        undecided = {**cursor.undecided, **detected}
        for verdict in verdicts:
            undecided.pop(f"{verdict.repo_id}@{verdict.commit_hash}", None)
        still, late = watch_deadlines(undecided, now, self._runs_url)
        told = [verdict_reached(v, url=self._asset_url(f"{v.lane}/verdict", v.repo_id)) for v in verdicts]
        after = AlertCursor(runs_after=runs_after, created_after=created_after, verdicts_after=ids, undecided=still)
        return after, [*new, *told, *failed, *late]

    def _new_releases(self, after: datetime) -> tuple[datetime, dict[str, datetime], list[Alert]]:
        """Runs that a detection caused: the new position, when each revision was detected, and the alerts."""
        records = self._instance.get_run_records(
            dg.RunsFilter(tags={"modelops/source": DETECTED_BY}, created_after=after),
            limit=MAX_PER_TICK,
            order_by="create_timestamp",
            ascending=True,
        )
        detected: dict[str, datetime] = {}
        alerts: list[Alert] = []
        for record in records:
            tags, at = record.dagster_run.tags, _utc(record.create_timestamp)
            after = max(after, at)
            repo_id, commit_hash = tags.get("dagster/partition"), tags.get("modelops/commit_hash")
            if not repo_id or not commit_hash or record.dagster_run.parent_run_id:
                continue  # another start of a run that was told already
            known = self._lineage.value("release", repo_id)
            same = isinstance(known, Release) and known.revision.commit_hash == commit_hash
            detected[f"{repo_id}@{commit_hash}"] = at
            url = f"{self._hub_url.rstrip('/')}/{repo_id}"
            alerts.append(new_release(repo_id, commit_hash, at=at, url=url, known=known if same else None))
        return after, detected, alerts

    def _verdicts(self, after: dict[str, int]) -> tuple[dict[str, int], list[Verdict]]:
        ids, found = dict(after), []
        for key in _verdict_assets():
            # a lane that is new since the last tick begins with its first verdict
            records = self._instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=_asset_key(key), after_storage_id=ids.get(key, 0)),
                limit=MAX_PER_TICK,
                ascending=True,
            ).records
            for record in records:
                ids[key] = max(ids.get(key, 0), record.storage_id)
                value = self._lineage.value(key, record.partition_key, record.run_id) if record.partition_key else None
                if isinstance(value, Verdict):
                    found.append(value)
        return ids, found

    def _failures(self, after: datetime, before: datetime) -> tuple[datetime, list[Alert]]:
        if before <= after:
            return after, []
        records = self._instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=after, updated_before=before),
            limit=MAX_PER_TICK,
            order_by="update_timestamp",
            ascending=True,
        )
        alerts = []
        for record in records:
            run = record.dagster_run
            if run.tags.get("dagster/will_retry") == "true":
                continue
            step, sentence, code = self._why(run.run_id)
            alerts.append(
                run_failed(
                    run.tags.get("dagster/partition") or run.job_name,
                    run_id=run.run_id,
                    step=step,
                    sentence=sentence,
                    code=code,
                    at=_utc(record.update_timestamp),
                    url=f"{self._dagster_url}/runs/{run.run_id}",
                )
            )
        whole = len(records) < MAX_PER_TICK
        return before if whole else _utc(records[-1].update_timestamp), alerts

    def _why(self, run_id: str) -> tuple[str | None, str, str | None]:
        """The step that failed first, its sentence, and the product's error code."""
        for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
            for record in self._instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
                entry = record.event_log_entry
                event = entry.dagster_event
                data = event.step_failure_data if event and kind is dg.DagsterEventType.STEP_FAILURE else None
                stated = data.user_failure_data if data else None
                if stated and stated.description:
                    code = stated.metadata.get("code")
                    return entry.step_key, stated.description, str(code.value) if code else None
                error = data.error.cause or data.error if data and data.error else None
                said = (error.message if error else None) or (event.message if event else None) or entry.user_message
                return entry.step_key, said, None
        return None, "it ended without a word; look at its log", None

    def _runs_url(self, repo_id: str) -> str:
        return f"{self._dagster_url}/runs?q[0]={quote(f'tag:dagster/partition={repo_id}', safe='')}"

    def _asset_url(self, asset: str, repo_id: str) -> str:
        return f"{self._dagster_url}/assets/{asset}?partition={quote(repo_id, safe='')}"


def _verdict_assets() -> Sequence[str]:
    return [f"{lane.name}/verdict" for lane in LANES]


def _asset_key(key: str) -> dg.AssetKey:
    return dg.AssetKey(key.split("/"))


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
