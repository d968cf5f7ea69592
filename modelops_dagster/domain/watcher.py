"""The Watcher's decision: which commits of an organisation are new, and which of those to onboard.

The whole listing is compared with what was decided before, by the Hub's own id of a repository and by commit. Dates are
not looked at: a repository is created empty and filled later, or made public weeks after its creation, and a cursor on
either date misses it.

A commit that nothing can be said of yet (weights not complete, gated, its files not read) stays undecided and is looked
at again at the next read. Everything else is decided once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from modelops_dagster.domain.listings import RepoContent, RepoListing, incompleteness, obstacle_to
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.watchlist import OrgWatch

GONE_AFTER_READS = 2
# A listing without a fifth of what was known is taken for a partial one, until it has come back the same this often.
KEPT_SHARE = 0.8
BELIEVED_AFTER_READS = 6
PREFIX = 12  # hex digits kept of a commit that is not the reference
MAX_COMMITS = 128
NOTHING_AWAITED: dict[str, Any] = {"awaited": "", "awaited_since": None}
Decision = Literal["onboard", "skip", "withdraw"]
Question = tuple[str, str]  # repo_id, commit_hash


class Detection(Value):
    """A commit that was decided upon, once; or a repository that went away."""

    repo_id: str
    commit_hash: str
    decision: Decision
    reason: str
    first_seen: datetime | None = Field(default=None, description="first read that listed the commit, UTC")


class KnownRepo(Value):
    """What is remembered of one repository. Short names on disk: there are tens of thousands of these.

    The reference is the last commit that was onboarded, or was the baseline, or differed from such a one in documents
    only. A new commit with the same content as the reference is not a release.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="n", description="without the organisation")
    reference: str = Field(default="", alias="r", description="full hash; empty: there is none yet")
    content: str = Field(default="", alias="d", description="digest of the reference's files; empty: not read yet")
    head: str = Field(default="", alias="h", description="last commit decided, when it is not the reference")
    commits: tuple[str, ...] = Field(default=(), alias="c", description="prefixes of the earlier ones, oldest first")
    missing: int = Field(default=0, alias="m", description="good reads in a row without it")
    former: tuple[str, ...] = Field(default=(), alias="f", description="names it had before; a route may bear one")
    awaited: str = Field(default="", alias="w", description="prefix of a commit that is not decided yet")
    awaited_since: datetime | None = Field(default=None, alias="s", description="first read that listed that one, UTC")

    def has_decided(self, commit_hash: str) -> bool:
        return commit_hash in (self.reference, self.head) or commit_hash[:PREFIX] in self.commits

    @property
    def last_commit(self) -> str:
        return self.head or self.reference

    @property
    def is_gone(self) -> bool:
        return self.missing >= GONE_AFTER_READS


class OrgState(Value):
    """Everything remembered of one organisation that was read at least once."""

    repos: dict[str, KnownRepo] = Field(default_factory=dict, description="by the Hub's id, or by /name without one")
    shrunken: tuple[str, ...] = Field(default=(), description="keys that the last reads, taken for partial, lacked")
    shrunken_reads: int = 0


class Reading(NamedTuple):
    """What one read of an organisation led to."""

    state: OrgState
    detections: list[Detection]
    waiting: list[Detection]  # undecided: `skip` for now, with what is waited for
    unchanged: list[Detection]  # decided at an earlier read
    problem: str | None = None  # the listing was taken for a partial one, and nothing was decided


@dataclass
class _Pass:
    """One pass over a listing: the new state and the lists of a `Reading`, as they grow."""

    org: str
    baseline: bool
    watch: OrgWatch
    contents: Mapping[Question, RepoContent | None]
    repos: dict[str, KnownRepo]
    now: datetime | None
    detections: list[Detection] = field(default_factory=list)
    waiting: list[Detection] = field(default_factory=list)
    unchanged: list[Detection] = field(default_factory=list)


def detect(
    state: OrgState | None,
    org: str,
    listing: Sequence[RepoListing],
    contents: Mapping[Question, RepoContent | None] | None = None,
    watch: OrgWatch | None = None,
    now: datetime | None = None,
) -> Reading:
    """Compare one organisation's full listing with what was decided before.

    The first listing of an organisation is its baseline: everything whole in it is skipped.

    Args:
        state: what the previous read led to; None when there was none.
        org: the organisation that was listed.
        listing: the whole listing. A read that failed must not be passed; one that is suspiciously short may be.
        contents: answers to `questions`; None says that the Hub no longer has that commit. A commit whose answer is
            left out stays undecided.
        watch: filters; without, everything is wanted.
        now: when it was listed, UTC; None leaves out when commits were first seen.
    """
    at = _Pass(org, state is None, watch or OrgWatch(), contents or {}, dict(state.repos) if state else {}, now)
    matched = _match(at.repos, listing)
    here = set(matched.values())
    lacking = tuple(sorted(k for k, r in at.repos.items() if k not in here and not r.is_gone))
    noted: dict[str, Any] = {}
    if state is not None and _is_shrunken(at.repos, lacking):
        reads = state.shrunken_reads + 1 if set(lacking) <= set(state.shrunken) else 1
        noted = {"shrunken": lacking, "shrunken_reads": reads}
        if reads < BELIEVED_AFTER_READS:
            known = sum(not r.is_gone for r in at.repos.values())
            problem = (
                f"the listing of {org} lacks {len(lacking)} of {known} known repositories: taken for a partial one"
            )
            return Reading(state.model_copy(update=noted), [], [], [], problem)
    for number, repo in enumerate(listing):
        _decide(at, repo, matched.get(number))
    for key in lacking:
        _miss(at, key)
    return Reading(OrgState(repos=at.repos, **noted), at.detections, at.waiting, at.unchanged)


def questions(state: OrgState | None, listing: Sequence[RepoListing], watch: OrgWatch | None = None) -> list[Question]:
    """Commits whose files have to be read before `detect` can decide, most of the time none.

    One for each new commit that nothing speaks against, and once per repository one more: the commit it stood at.
    """
    if state is None:
        return []
    asked: list[Question] = []
    matched = _match(state.repos, listing)
    for number, repo in enumerate(listing):
        known = state.repos.get(matched.get(number, ""))
        if (known is None or not known.has_decided(repo.commit_hash)) and _by_listing(
            repo, watch or OrgWatch()
        ) is None:
            asked.append((repo.repo_id, repo.commit_hash))
            if known is not None and known.reference and not known.content:
                asked.append((repo.repo_id, known.reference))
    return asked


def _match(repos: Mapping[str, KnownRepo], listing: Sequence[RepoListing]) -> dict[int, str]:
    """Position in the listing -> key of the repository it is. By the Hub's id first, by name where that is new."""
    matched = {i: r.hub_id for i, r in enumerate(listing) if r.hub_id is not None and r.hub_id in repos}
    taken = set(matched.values())
    by_name = {r.name: key for key, r in repos.items() if key not in taken}
    for i, repo in enumerate(listing):
        if i not in matched and repo.name in by_name:
            matched[i] = by_name.pop(repo.name)
    return matched


def _is_shrunken(repos: Mapping[str, KnownRepo], lacking: Sequence[str]) -> bool:
    """Whether so many are lacking that the listing is not believed. One deletion always is."""
    known = sum(not r.is_gone for r in repos.values())
    return bool(lacking) and (len(lacking) == known or len(lacking) > max(1.0, (1 - KEPT_SHARE) * known))


def _by_listing(repo: RepoListing, watch: OrgWatch) -> tuple[bool, str] | None:
    """(for good, reason) when the listing alone keeps a commit from being onboarded now; None when it does not."""
    if repo.disabled:
        return False, "disabled on the Hub"
    obstacle = obstacle_to(repo) or watch.objection(repo)
    if obstacle is not None:
        return True, obstacle
    lack = incompleteness(repo)
    return (False, lack) if lack is not None else None


def _decide(at: _Pass, repo: RepoListing, key: str | None) -> None:
    """Decide on one listed repository, and remember it."""
    known = at.repos.pop(key) if key is not None else None
    new_key = repo.hub_id or (key if key is not None and not key.startswith("/") else f"/{repo.name}")
    if known is not None and known.has_decided(repo.commit_hash):
        at.repos[new_key] = _seen_again(at, repo, known)
        return
    was_known = known is not None
    known = _here(known, repo) if known else KnownRepo(name=repo.name)
    at.repos[new_key] = _judge(at, repo, known, was_known)


def _seen_again(at: _Pass, repo: RepoListing, known: KnownRepo) -> KnownRepo:
    """A commit that was decided before: nothing happens, but a new name or a return is told."""
    if known.name != repo.name:
        at.detections.append(
            _said(repo, "skip", f"renamed from {at.org}/{known.name}; this commit was decided under that name")
        )
    elif known.is_gone:
        at.detections.append(
            _said(
                repo, "skip", f"back on the Hub; decided before: `modelops onboard {repo.repo_id}` restores its route"
            )
        )
    else:
        at.unchanged.append(_said(repo, "skip", "decided before"))
    return _here(known, repo)


def _here(known: KnownRepo, repo: RepoListing) -> KnownRepo:
    """A known repository that is listed, perhaps under a new name."""
    former = known.former
    if known.name != repo.name and known.last_commit:
        former = tuple(n for n in dict.fromkeys((*former, known.name)) if n != repo.name)
    return known.model_copy(update={"name": repo.name, "missing": 0, "former": former})


def _judge(at: _Pass, repo: RepoListing, known: KnownRepo, was_known: bool) -> KnownRepo:
    """A commit that is not decided yet: decide it, or say what it waits for."""
    barred = _by_listing(repo, at.watch)
    if barred is not None and not barred[0] and not (at.baseline and repo.disabled):
        return _awaited(at, repo, known, barred[1])
    if at.baseline:
        at.detections.append(_said(repo, "skip", "baseline"))
        return known.model_copy(update={"reference": repo.commit_hash} | NOTHING_AWAITED)
    if barred is not None:
        return _skipped(at, repo, known, barred[1])
    content = at.contents.get((repo.repo_id, repo.commit_hash))
    reference = known.content
    if known.reference and not reference:
        question = (repo.repo_id, known.reference)
        earlier = at.contents.get(question)
        reference = earlier.digest if earlier is not None else ""
        content = content if question in at.contents else None
    if content is None:
        return _awaited(at, repo, known, "its files could not be read yet")
    if not content.readable:
        return _awaited(at, repo, known, "gated, and this account was not let in; accept its licence")
    if objection := at.watch.size_objection(content.weight_bytes):
        return _skipped(at, repo, known, objection)
    if reference and reference == content.digest:
        at.detections.append(
            _said(repo, "skip", "documents only: weights, config, tokenizer and template are the same")
        )
    else:
        release = _said(repo, "onboard", "new commit" if was_known and known.last_commit else "new repository")
        at.detections.append(release.model_copy(update={"first_seen": _first_seen(at, repo, known)}))
    return known.model_copy(
        update={
            "reference": repo.commit_hash,
            "content": content.digest,
            "head": "",
            "commits": _with(known, repo.commit_hash),
            **NOTHING_AWAITED,
        }
    )


def _skipped(at: _Pass, repo: RepoListing, known: KnownRepo, reason: str) -> KnownRepo:
    """Decided against. The reference stays: what was never onboarded is nothing to compare with."""
    at.detections.append(_said(repo, "skip", reason))
    decided = {"head": repo.commit_hash, "commits": _with(known, repo.commit_hash)}
    return known.model_copy(update=decided | NOTHING_AWAITED)


def _awaited(at: _Pass, repo: RepoListing, known: KnownRepo, reason: str) -> KnownRepo:
    """Not decided yet. When it was first seen is remembered: its release counts from there, however long it waits."""
    at.waiting.append(_said(repo, "skip", f"waiting: {reason}"))
    since = _first_seen(at, repo, known)
    return known.model_copy(update={"awaited": repo.commit_hash[:PREFIX] if since else "", "awaited_since": since})


def _first_seen(at: _Pass, repo: RepoListing, known: KnownRepo) -> datetime | None:
    return known.awaited_since if known.awaited == repo.commit_hash[:PREFIX] else at.now


def _miss(at: _Pass, key: str) -> None:
    """A known repository that a good read lacks; at the second one it is gone."""
    known = at.repos[key].model_copy(update={"missing": at.repos[key].missing + 1})
    at.repos[key] = known
    if known.is_gone and not known.last_commit:
        del at.repos[key]  # it was never whole, so there is nothing to withdraw or to compare with
    elif known.is_gone:
        in_use = {r.name for other, r in at.repos.items() if other != key and not r.is_gone}
        # a route bears the name under which the commit was onboarded, which another repository may have by now
        for name in (known.name, *(n for n in known.former if n not in in_use)):
            at.detections.append(
                Detection(
                    repo_id=f"{at.org}/{name}",
                    commit_hash=known.last_commit,
                    decision="withdraw",
                    reason=f"not on the Hub in {GONE_AFTER_READS} reads: its routes are withdrawn, its history is kept",
                )
            )


def _with(known: KnownRepo, commit_hash: str) -> tuple[str, ...]:
    """Prefixes of every commit decided so far, this one included."""
    ahead = [c[:PREFIX] for c in (known.reference, known.head) if c]
    prefixes = dict.fromkeys((*known.commits, *ahead))
    prefixes.pop(commit_hash[:PREFIX], None)
    return (*prefixes, commit_hash[:PREFIX])[-MAX_COMMITS:]


def _said(repo: RepoListing, decision: Decision, reason: str) -> Detection:
    return Detection(repo_id=repo.repo_id, commit_hash=repo.commit_hash, decision=decision, reason=reason)
