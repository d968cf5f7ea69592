"""An organisation that publishes as real ones do, in memory, and its Hub, whose listings may fail or be cut short."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from modelops_dagster.domain.errors import HubUnavailable, InvalidSpec
from modelops_dagster.domain.listings import RepoContent, RepoListing

ORG = "acme"
WHOLE = ("config.json", "model.safetensors", "tokenizer.json", "README.md")
SHARDS = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


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
    gated_first, disabled_first = (partial(_closed_first, flag) for flag in ("gated", "disabled"))
    first = rng.choice((_at_once, _empty_then_filled, _shards, _private_first, gated_first, disabled_first))
    yield from first(repo, rng)
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


def _closed_first(flag: str, repo: Repo, rng: random.Random) -> Iterator[None]:
    """Listed, and not to be had while it is gated or disabled."""
    repo.exists = True
    setattr(repo, flag, True)
    repo.push()
    yield from _pause(rng)
    setattr(repo, flag, False)
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
