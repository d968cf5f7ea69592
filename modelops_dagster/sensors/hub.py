"""hub_releases: a new commit of a followed organisation becomes a partition and one onboard run."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field, ValidationError

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.watcher import watcher_round
from modelops_dagster.clients.watcher import Position, TickReport
from modelops_dagster.clients.watcher.detections import LoggedDetection
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.plan import LANES_TAG
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.watcher import Detection
from modelops_dagster.domain.watchlist import POLICY_TAG, OrgWatch, Watchlist
from modelops_dagster.resources.hub_watch import HubWatchResource

LOOK_EVERY_S = 10  # for pushes and for what `modelops watch` found; an organisation is read at its own interval
READ_BUDGET_S = 30.0  # no request to the Hub is begun after it; Dagster ends a tick at 60 s
ACT_BUDGET_S = 42.0
MAX_PER_TICK = 200
NOBODY = "No new commit: nobody is followed; write $MODELOPS_HOME/watch.yaml, or set MODELOPS_HUB_ORGS and restart."


class HubCursor(Value):
    """How far the log of detections was acted upon. The Watcher's own state is in its folder, not here."""

    position: Position = Position()
    owed: tuple[LoggedDetection, ...] = Field(default=(), description="withdrawals that did not succeed yet")
    told_at: datetime | None = Field(default=None, description="when the asset `watcher` was last reported")


def hub_sensor(job_name: str, interval_s: int) -> dg.SensorDefinition:
    """The sensor over the organisations of `watch.yaml` and MODELOPS_HUB_ORGS.

    Args:
        job_name: what to run for a new revision.
        interval_s: seconds between two reads of an organisation.
    """

    @dg.sensor(
        name="hub_releases",
        job_name=job_name,
        minimum_interval_seconds=min(LOOK_EVERY_S, interval_s),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares what each organisation has published with what was seen before, by commit.",
    )
    def hub_releases(
        context: dg.SensorEvaluationContext, hub_watch: HubWatchResource
    ) -> dg.SensorResult | dg.SkipReason:
        begun = time.monotonic()
        cursor = _cursor(context.cursor)
        watchlist, report, problems = _read(hub_watch, begun + READ_BUDGET_S, context.log.info)
        page = hub_watch.store().log.read(cursor.position, limit=MAX_PER_TICK)
        found = [e.detection for e in page.entries if e.detection.decision == "onboard"]
        withdrawn = [*cursor.owed, *(e for e in page.entries if e.detection.decision == "withdraw")]
        owed = _withdraw(hub_watch, withdrawn, begun + ACT_BUDGET_S, context.log.info)
        for line in problems:
            context.log.warning(line)
        quiet = "; ".join(problems) or (NOBODY if not watchlist.organisations else "No new commit.")
        now = datetime.now(UTC)
        whole = bool(report.read) and not problems and not _told(cursor, now, interval_s)
        after = HubCursor(position=page.next, owed=owed, told_at=now if whole else cursor.told_at)
        return dg.SensorResult(
            dynamic_partitions_requests=[models.build_add_request([d.repo_id for d in found])] if found else [],
            run_requests=[_request(d, watchlist.of(d.repo_id.partition("/")[0])) for d in found],
            asset_events=[watcher_round(watchlist, report, len(found), hub_watch.hub_url)] if whole else [],
            skip_reason=None if found else quiet,
            # none before the first organisation has its baseline
            cursor=after.model_dump_json() if page.next.log else None,
        )

    return hub_releases


def _read(
    watch: HubWatchResource, deadline: float, say: Callable[[str], None]
) -> tuple[Watchlist, TickReport, list[str]]:
    """One tick of the Watcher: whom it follows, what it saw, and a line per problem."""
    try:
        watchlist = watch.watchlist()
        report = watch.tick(watchlist, deadline)
    except (
        ModelOpsError
    ) as error:  # a file with a mistake, or `modelops watch` at work: what was found is still acted on
        return Watchlist(), TickReport(), [error.sentence]
    for d in (*report.detections, *report.waiting):
        say(f"{d.repo_id}@{d.commit_hash[:12]}: {d.decision}, {d.reason}")
    left = [f"{counted(len(report.postponed), 'organisation')} left for the next tick"] if report.postponed else []
    return watchlist, report, [*(f"{org}: {problem}" for org, problem in report.problems.items()), *left]


def _told(cursor: HubCursor, now: datetime, interval_s: int) -> bool:
    """Whether a round was reported a moment ago: one an interval is enough, however many organisations there are."""
    return cursor.told_at is not None and now - cursor.told_at < timedelta(seconds=interval_s)


def _withdraw(
    watch: HubWatchResource, entries: Sequence[LoggedDetection], deadline: float, say: Callable[[str], None]
) -> tuple[LoggedDetection, ...]:
    """Take models out of service; what did not succeed is returned, and tried at the next tick."""
    owed = []
    for entry in entries:
        repo_id = entry.detection.repo_id
        if time.monotonic() > deadline:
            owed.append(entry)
            continue
        try:
            done = watch.withdraw(repo_id)
        except ModelOpsError as error:
            say(f"{repo_id} is to be withdrawn: {error.sentence}")
            owed.append(entry)
            continue
        stopped = ", ".join(done.stopped) or "none"
        say(f"{repo_id} was withdrawn: route version {done.route_version or 'none'}, endpoints stopped: {stopped}")
    return tuple(owed)


def _request(found: Detection, watch: OrgWatch) -> dg.RunRequest:
    """One run per revision, ever: Dagster knows the key of every run it made."""
    tags = {"dagster/priority": "3", "modelops/commit_hash": found.commit_hash, "modelops/source": "hub"}
    if watch.policy is not None:
        tags[POLICY_TAG] = watch.policy
    if watch.lanes is not None:
        tags[LANES_TAG] = ",".join(watch.lanes)
    return dg.RunRequest(
        partition_key=found.repo_id,
        run_key=f"{found.repo_id}@{found.commit_hash}",
        run_config={"ops": {"release": {"config": {"ref": found.commit_hash}}}},
        tags=tags,
    )


def _cursor(text: str | None) -> HubCursor:
    """The last tick's cursor. One of an earlier version starts the log from its beginning; run keys see to the rest."""
    try:
        return HubCursor.model_validate_json(text) if text else HubCursor()
    except ValidationError:
        return HubCursor()
