"""The Watcher beside an organisation that publishes: failures, kills, restarts.

Every history is one repository. What must be found follows from what the publisher did and from which reads were whole,
without a look at the Watcher's own state.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from modelops_dagster.clients.watcher import Watcher, WatchStore
from modelops_dagster.clients.watcher.detections import LoggedDetection, Position
from modelops_dagster.clients.watcher.store import OrgRecord
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist
from tests.fakes.publishers import ORG, SHARDS, WHOLE, Hub, Repo

INTERVAL_S = 600.0


class Killed(BaseException):
    """The process ended here. Not an Exception, so that nothing in the Watcher can catch it."""


class FragileStore(WatchStore):
    """The real store, killed now and then at each place where a kill could leave something half done."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        super().__init__(root, durable=False)
        self._rng = rng
        self.calm = False
        self.kills = 0

    def _perhaps_killed(self) -> None:
        if not self.calm and self._rng.random() < 0.06:
            self.kills += 1
            raise Killed

    def _mark(self, org: str) -> None:
        self._perhaps_killed()
        super()._mark(org)
        self._perhaps_killed()

    def _write_org(self, org: str, record: OrgRecord) -> None:
        self._perhaps_killed()
        super()._write_org(org, record)
        self._perhaps_killed()

    def _append(self, found: Sequence[LoggedDetection]) -> None:
        if not self.calm and self._rng.random() < 0.03 and self.log.path.exists():
            with self.log.path.open("ab") as log:  # half a line
                log.write(found[0].model_dump_json().encode()[: self._rng.randint(1, 40)])
            self.kills += 1
            raise Killed
        super()._append(found)
        self._perhaps_killed()

    def _unmark(self, org: str) -> None:
        super()._unmark(org)
        self._perhaps_killed()


@dataclass
class Truth:
    """What has to be found of one repository, from what the publisher did and which reads were whole."""

    decided: set[str] = field(default_factory=set)
    content: int = 0
    wanted: list[str] = field(default_factory=list)

    def read(self, repo: Repo, *, baseline: bool) -> None:
        """A whole read saw the repository as it is."""
        was_there = baseline and repo.is_listed and (repo.files in (WHOLE, SHARDS))
        if not (repo.is_ready or was_there) or repo.sha in self.decided:
            return
        self.decided.add(repo.sha)
        if not baseline and repo.content != self.content:
            self.wanted.append(repo.sha)
        self.content = repo.content


class Outcome(Counter[str]):
    """histories, ticks, kills, fired, wanted; missed, duplicated, unwanted, withdrawals_missed, withdrawn_wrongly."""


def simulate(root: Path, seed: int, histories: int = 10, ticks: int = 30) -> Outcome:
    """One organisation of so many repositories, from its first read to the end of every plan.

    Args:
        root: an empty folder for the Watcher's state.
        seed: of everything random.
        histories: repositories.
        ticks: reads in bad weather; some calm ones follow, so that the last commit of each history is looked at.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    hub = Hub(rng, histories)
    store = FragileStore(root, rng)
    truths = [Truth() for _ in hub.repos]
    outcome = Outcome(histories=histories)
    clock = 0.0
    fired: list[str] = []
    withdrawn: Counter[str] = Counter()
    served: set[tuple[str, str]] = set()  # the repository's uid, and a name that a route of it bears
    position = Position()
    for number in range(ticks + 10):
        first = number == 0
        hub.calm = store.calm = first or number >= ticks
        if number <= ticks:
            hub.step()
        clock += INTERVAL_S * 10
        watcher = Watcher(
            store,
            hub,
            Watchlist(organisations={ORG: OrgWatch()}),
            INTERVAL_S,
            wall=lambda at=clock: at,
            clock=lambda: 0.0,
        )
        for repo in hub.repos:
            repo.ever_ready |= {repo.sha} if repo.is_ready else set()
            repo.reads_absent += not repo.is_listed and repo.commit > 0
        try:
            report = watcher.tick(1.0)
        except Killed:
            store = FragileStore(root, rng)
            store.kills += 1
            outcome["kills"] += 1
            report = None
        unread = {d.repo_id for d in report.waiting if "could not be read" in d.reason} if report else set()
        if report is not None and hub.whole and not report.problems:
            for repo, truth in zip(hub.repos, truths, strict=True):
                if repo.repo_id not in unread:
                    truth.read(repo, baseline=first)
        if rng.random() < 0.8:  # else the reader is killed before its position is kept, and reads the same again
            position = _drain(store, position, fired, withdrawn, served)
        outcome["ticks"] += 1
    _drain(store, position, fired, withdrawn, served)
    _compare(hub, truths, fired, outcome)
    for repo, truth in zip(hub.repos, truths, strict=True):
        still_served = any(uid == f"{repo.uid:032x}" for uid, _ in served)
        if not repo.exists and truth.decided and (still_served or not withdrawn[f"{repo.uid:032x}"]):
            outcome["withdrawals_missed"] += 1
        if withdrawn[f"{repo.uid:032x}"] and repo.reads_absent < 2:
            outcome["withdrawn_wrongly"] += 1
    return outcome


def _drain(
    store: WatchStore, position: Position, fired: list[str], withdrawn: Counter[str], served: set[tuple[str, str]]
) -> Position:
    """Act on what the log has after a position."""
    page = store.log.read(position, limit=None)
    for entry in page.entries:
        route = entry.detection.commit_hash[8:], entry.detection.repo_id
        if entry.detection.decision == "onboard":
            fired.append(entry.detection.commit_hash)
            served.add(route)
        else:
            withdrawn[route[0]] += 1
            served.discard(route)
    return page.next


def _compare(hub: Hub, truths: Sequence[Truth], fired: Sequence[str], outcome: Outcome) -> None:
    """Count what was fired against what had to be."""
    times = Counter(fired)
    outcome["fired"] += len(fired)
    outcome["duplicated"] += sum(n - 1 for n in times.values())
    for repo, truth in zip(hub.repos, truths, strict=True):
        mine = {sha for sha in times if sha in repo.commits}
        # a killed tick may have found a commit that was pushed over since; its content counts
        contents = {repo.commits[sha] for sha in mine}
        outcome["missed"] += sum(1 for sha in truth.wanted if sha not in mine and repo.commits[sha] not in contents)
        outcome["wanted"] += len(truth.wanted)
        # the same content twice in a row; with another in between, the publisher went back by a commit that was new
        order = [repo.commits[sha] for sha in dict.fromkeys(fired) if sha in mine]
        again = sum(a == b for a, b in pairwise(order))
        outcome["unwanted"] += again + len(mine - repo.ever_ready)
