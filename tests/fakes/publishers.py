"""An organisation that publishes as real ones do, in memory, and the Watcher beside it: failures, kills, restarts.

Every history is one repository. What must be found follows from what the publisher did and from which reads were whole,
without a look at the Watcher's own state.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from modelops_dagster.clients.watcher import Watcher, WatchStore
from modelops_dagster.clients.watcher.detections import LoggedDetection, Position
from modelops_dagster.clients.watcher.store import OrgRecord
from modelops_dagster.domain.errors import HubUnavailable, InvalidSpec
from modelops_dagster.domain.listings import RepoContent, RepoListing
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist

ORG = "acme"
WHOLE = ("config.json", "model.safetensors", "tokenizer.json", "README.md")
SHARDS = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INTERVAL_S = 600.0


class Killed(BaseException):
    """The process ended here. Not an Exception, so that nothing in the Watcher can catch it."""


@dataclass
class Repo:
    """One repository on the Hub, and what its publisher still has in mind."""

    uid: int
    name: str
    plan: Iterator[None]
    commit: int = 0
    content: int = 0
    files: tuple[str, ...] = ()
    exists: bool = False
    private: bool = False
    gated: bool = False
    disabled: bool = False
    pushes: int = 0
    commits: dict[str, int] = field(default_factory=dict)  # hash -> content
    ever_ready: set[str] = field(default_factory=set)
    reads_absent: int = 0

    @property
    def hub_id(self) -> str:
        return f"{self.uid:024x}"

    @property
    def repo_id(self) -> str:
        return f"{ORG}/{self.name}"

    @property
    def sha(self) -> str:
        return f"{self.commit:08x}{self.uid:032x}"

    @property
    def is_listed(self) -> bool:
        return self.exists and not self.private and self.commit > 0

    @property
    def is_ready(self) -> bool:
        """Whether its present commit could be onboarded."""
        return self.is_listed and not self.disabled and not self.gated and self.files in (WHOLE, SHARDS)

    def push(self, files: tuple[str, ...] = WHOLE, *, same: bool = False) -> None:
        self.pushes += 1
        self.commit, self.files = self.pushes, files
        if not same:
            self.content = self.commit
        self.commits[self.sha] = self.content


def publisher(repo: Repo, rng: random.Random) -> Iterator[None]:
    """What one publisher does, a step at a time: one way to appear, then changes in any order."""
    yield from rng.choice((_at_once, _empty_then_filled, _shards, _private_first, _gated_first, _disabled_first))(
        repo, rng
    )
    changes = [_documents, _documents, _fix, _fix, _revert, _rename, _away_and_back, _partial_fix, _delete]
    for change in rng.sample(changes, rng.randint(0, 4)):
        yield from change(repo, rng)
        if change is _delete:
            return


def _pause(rng: random.Random) -> Iterator[None]:
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        yield


def _at_once(repo: Repo, rng: random.Random) -> Iterator[None]:
    yield from _pause(rng)
    repo.exists = True
    repo.push()
    yield


def _empty_then_filled(repo: Repo, rng: random.Random) -> Iterator[None]:
    yield from _pause(rng)
    repo.exists = True
    repo.push((".gitattributes",))
    yield from _pause(rng)
    repo.push((".gitattributes", "config.json"))
    yield from _pause(rng)
    repo.push()
    yield


def _shards(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.exists = True
    for files in (SHARDS[:2], SHARDS):
        repo.push(files)
        yield from _pause(rng)
    yield


def _private_first(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.exists = repo.private = True
    repo.push()
    yield from _pause(rng)
    yield
    repo.private = False
    yield


def _gated_first(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.exists = repo.gated = True
    repo.push()
    yield from _pause(rng)
    repo.gated = False
    yield


def _disabled_first(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.exists = repo.disabled = True
    repo.push()
    yield from _pause(rng)
    repo.disabled = False
    yield


def _documents(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.push(repo.files, same=True)
    yield from _pause(rng)


def _fix(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.push()
    yield from _pause(rng)


def _revert(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.push()
    yield from _pause(rng)
    yield
    whole = [n for n in range(1, repo.pushes) if f"{n:08x}{repo.uid:032x}" in repo.ever_ready]
    if whole:
        repo.commit, repo.files = rng.choice(whole), WHOLE
        repo.content = repo.commits[repo.sha]
    yield from _pause(rng)
    yield
    repo.push()
    yield from _pause(rng)


def _partial_fix(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.push(SHARDS[:2])
    yield from _pause(rng)
    repo.push(SHARDS)
    yield from _pause(rng)


def _rename(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.name += "-renamed"
    yield from _pause(rng)


def _away_and_back(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.private = True
    yield from _pause(rng)
    repo.private = False
    yield from _pause(rng)


def _delete(repo: Repo, rng: random.Random) -> Iterator[None]:
    repo.exists = False
    yield from _pause(rng)


class Hub:
    """The Hub of one organisation, as the Watcher's client sees it, in bad weather or in good."""

    def __init__(self, rng: random.Random, histories: int) -> None:
        self.rng, self.calm, self.whole = rng, False, True
        self.repos: list[Repo] = []
        for n in range(histories):
            repo = Repo(n + 1, f"model-{n}", iter(()))
            repo.plan = publisher(repo, rng)
            self.repos.append(repo)

    def step(self) -> None:
        """Some publishers do their next thing."""
        for repo in self.repos:
            if self.rng.random() < 0.6:
                next(repo.plan, None)

    def list_org(self, org: str, deadline: float | None = None) -> list[RepoListing]:
        listing = [_listing(r) for r in self.repos if r.is_listed]
        weather = 1.0 if self.calm else self.rng.random()
        self.whole = weather >= 0.25
        if weather < 0.15:
            raise HubUnavailable("The Hub did not answer: nothing was changed; try again later.")
        if not self.whole:  # cut short without saying so
            listing = listing[: int(len(listing) * self.rng.uniform(0.0, 0.7))]
        self.rng.shuffle(listing)
        return listing

    def content(self, repo_id: str, commit_hash: str, *, gated: bool) -> RepoContent:
        repo = next(r for r in self.repos if r.repo_id == repo_id)
        if not self.calm and self.rng.random() < 0.1:
            raise HubUnavailable("The Hub did not answer: nothing was changed; try again later.")
        if commit_hash not in repo.commits:
            raise InvalidSpec("no such commit", field="ref")
        return RepoContent(digest=str(repo.commits[commit_hash]), readable=not gated)


def _listing(repo: Repo) -> RepoListing:
    return RepoListing(
        repo_id=repo.repo_id,
        commit_hash=repo.sha,
        hub_id=repo.hub_id,
        files=repo.files,
        gated=repo.gated,
        disabled=repo.disabled,
    )


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
