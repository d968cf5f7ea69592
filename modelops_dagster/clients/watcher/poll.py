"""One tick of the Watcher: read the organisations that are due, decide, and make each decision durable at once."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from modelops_dagster.clients.watcher.store import WatchStore
from modelops_dagster.domain.errors import InvalidSpec, ModelOpsError
from modelops_dagster.domain.listings import RepoContent, RepoListing
from modelops_dagster.domain.watch_schedule import OrgSchedule, after_failure, after_read, due_orgs
from modelops_dagster.domain.watcher import Detection, OrgState, Question, Reading, detect, questions
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist

# So many organisations in a row that cannot be read mean that the Hub is away, and not that each of them is broken.
HUB_AWAY_AFTER = 5


class Hub(Protocol):
    """What a tick asks of the Hub."""

    def list_org(self, org: str, deadline: float | None = None) -> list[RepoListing]: ...

    def content(self, repo_id: str, commit_hash: str, *, gated: bool) -> RepoContent: ...


@dataclass
class TickReport:
    """What one tick saw. `waiting` and `unchanged` are told with the decision `skip` and lead to nothing."""

    detections: list[Detection] = field(default_factory=list)
    waiting: list[Detection] = field(default_factory=list)
    unchanged: list[Detection] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # organisation -> sentence
    read: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)  # due, and left for the next tick


class Watcher:
    """Reads organisations and keeps the state. Nothing here knows Dagster.

    Args:
        store: the state.
        hub: a client with short time limits, since one answer may be waited for when the tick's time is over.
        watchlist: whom to follow.
        interval_s: seconds between two reads of an organisation.
        wall: seconds since the epoch; due times are shared between programs.
        clock: monotonic seconds, for the tick's own time.
    """

    def __init__(
        self,
        store: WatchStore,
        hub: Hub,
        watchlist: Watchlist,
        interval_s: float,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._hub, self._watchlist, self._interval_s = store, hub, watchlist, interval_s
        self._wall, self._clock = wall, clock

    def tick(
        self,
        deadline: float,
        *,
        orgs: Sequence[str] | None = None,
        lock_wait_s: float = 0.0,
        on_org: Callable[[str], None] | None = None,
    ) -> TickReport:
        """Read what is due, the longest overdue first, until `deadline`; what is left is due at the next tick.

        Args:
            deadline: on the monotonic clock; no request is begun after it.
            orgs: read these, due or not; None: those of the watchlist that are due or were nudged.
            lock_wait_s: how long to wait for another tick that is under way.
            on_org: called with each organisation before it is read.

        Raises:
            Conflict: another tick is under way.
        """
        report = TickReport()
        with self._store.lock(lock_wait_s):
            schedule = self._store.schedule()
            before = dict(schedule)
            chosen = list(orgs) if orgs is not None else self._due(schedule)
            failed_in_a_row = 0
            for number, org in enumerate(chosen):
                if self._clock() >= deadline or failed_in_a_row >= HUB_AWAY_AFTER:
                    report.postponed = chosen[number:]
                    break
                if on_org is not None:
                    on_org(org)
                schedule[org] = self._read(org, schedule.get(org), deadline, report)
                failed_in_a_row = failed_in_a_row + 1 if org in report.problems else 0
            if schedule != before:
                self._store.write_schedule(schedule)
        return report

    def _due(self, schedule: Mapping[str, OrgSchedule]) -> list[str]:
        nudged = self._store.nudged()
        followed = self._watchlist.organisations
        for org in nudged - set(followed):
            self._store.forget_nudge(org)
        return due_orgs(list(followed), schedule, nudged, self._wall(), self._interval_s)

    def _read(self, org: str, before: OrgSchedule | None, deadline: float, report: TickReport) -> OrgSchedule:
        """Read one organisation. Whatever goes wrong with it stays with it."""
        self._store.forget_nudge(org)  # one that comes during the read asks for another read
        report.read.append(org)
        try:
            reading = self._decide(org, deadline)
        except Exception as error:  # an answer nobody foresaw must not keep the other organisations from being read
            said = error.sentence if isinstance(error, ModelOpsError) else f"{type(error).__name__}: {error}"
            report.problems[org] = said
            return after_failure(before, self._wall(), self._interval_s, said)
        report.detections += reading.detections
        report.waiting += reading.waiting
        report.unchanged += reading.unchanged
        if reading.problem is not None:
            report.problems[org] = reading.problem
            return after_failure(before, self._wall(), self._interval_s, reading.problem)
        cut_off = bool(reading.waiting) and self._clock() >= deadline
        return after_read(self._wall(), self._interval_s, waits=cut_off)

    def _decide(self, org: str, deadline: float) -> Reading:
        record = self._store.record(org)
        state = record.state if record is not None else None
        watch = self._watchlist.of(org)
        listing = self._hub.list_org(org, deadline)
        contents = self._contents(state, listing, watch, deadline)
        reading = detect(state, org, listing, contents, watch, datetime.fromtimestamp(self._wall(), UTC))
        self._store.commit(org, record, reading.state, reading.detections)
        return reading

    def _contents(
        self, state: OrgState | None, listing: Sequence[RepoListing], watch: OrgWatch, deadline: float
    ) -> dict[Question, RepoContent | None]:
        """Answers to what the decision depends on, as many as there is time for."""
        gated = {r.repo_id: r.gated for r in listing}
        heads = {(r.repo_id, r.commit_hash) for r in listing}
        answers: dict[Question, RepoContent | None] = {}
        for question in questions(state, listing, watch):
            if self._clock() >= deadline:
                break
            repo_id, commit_hash = question
            is_head = question in heads
            try:
                answers[question] = self._hub.content(repo_id, commit_hash, gated=is_head and gated[repo_id])
            except InvalidSpec:
                if not is_head:  # an earlier commit that was pushed over: there is nothing to compare with
                    answers[question] = None
            except ModelOpsError:
                continue  # undecided until its files can be read; said so in the report
        return answers
