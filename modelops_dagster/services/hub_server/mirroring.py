"""Bringing a revision of another Hub into this one, under the same commit hash: for sites that cannot reach it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from modelops_dagster.clients.checkpoints.claims import Claim, claim
from modelops_dagster.clients.checkpoints.fetching import Fetch, present_bytes
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.hub import COMMIT_HASH, ModelRevision, Release, RepoFile
from modelops_dagster.domain.listings import RepoListing
from modelops_dagster.domain.repo_files import require_safe_path
from modelops_dagster.domain.values import Value
from modelops_dagster.services.hub_server.publishing import disk_errors, keep_files, place_main
from modelops_dagster.services.hub_server.storage import MAIN, Commit, HubStorage, RepoSettings, StoredFile

FETCHING = ".mirroring"
MAX_WORKERS = 4
# Said again from the licence, or true of the other Hub only.
DERIVED_TAGS = ("license:", "region:", "endpoints_")


class Mirrored(Value):
    """What a mirroring did."""

    repo_id: str
    commit_hash: str
    source: str
    files: int
    size_bytes: int
    fetched_bytes: int
    main_moved: bool


def mirror(
    root: Path,
    repo_id: str,
    hub: HubClient,
    *,
    ref: str = MAIN,
    keep_gate: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Mirrored:
    """Make the Hub under `root` hold a revision of another Hub, every file verified against that Hub's listing.

    What a killed mirroring fetched is resumed by the byte, contents that are here already are not fetched again, and
    readers see the revision when it is whole. Doing it again changes nothing.

    Args:
        root: the folder that is, or will be, served.
        repo_id: org/name, the same on both Hubs.
        hub: where from.
        ref: a branch, tag or commit there. `main` moves main here; another branch or a tag is called the same here; a
            commit hash is kept under its hash. A repository that is new here has the revision as its main in any case.
        keep_gate: whether a repository that is new here and gated there asks for a token here too. Whom a repository
            that is here already is open to is decided here.
        progress: called with (bytes done, bytes in all), from several threads.

    Raises:
        RepoGated, RepoNotFound, InvalidSpec, HubUnavailable: as `HubClient`.
        UnsafeCheckpoint: the revision lists a path outside of it.
        IntegrityError: a file differs from the listing after it was fetched twice.
        DiskFull: not enough space for what is missing.
    """
    revision = hub.resolve(repo_id, ref)
    is_named = ref != MAIN and not COMMIT_HASH.fullmatch(ref)
    kind = hub.ref_kind(repo_id, ref) if is_named else None
    release, listed = hub.release(revision), hub.listing(revision)
    for file in release.files:
        require_safe_path(file.path)
    storage = HubStorage(root)
    with disk_errors(str(revision)):
        (storage.root / revision.org).mkdir(parents=True, exist_ok=True)
        with claim(storage.publish_claim(repo_id)) as held:
            commit, fetched_bytes = _whole(storage, revision), 0
            if commit is None:
                commit, fetched_bytes = _bring(storage, held, release, hub, progress)
            before = storage.main(repo_id)
            settings = _settings(storage, release, listed, gated=keep_gate and release.gated)
            storage.write_settings(repo_id, settings)
            held.confirm()
            moves = before is None or (ref == MAIN and before.commit_hash != commit.commit_hash)
            if moves:
                place_main(storage, repo_id, commit)
            if kind is not None:
                storage.set_ref(repo_id, kind, ref, commit.commit_hash)
    return Mirrored(
        repo_id=repo_id,
        commit_hash=commit.commit_hash,
        source=hub.endpoint,
        files=len(commit.files),
        size_bytes=sum(f.size_bytes for f in commit.files),
        fetched_bytes=fetched_bytes,
        main_moved=moves,
    )


def _bring(
    storage: HubStorage,
    held: Claim,
    release: Release,
    hub: HubClient,
    progress: Callable[[int, int], None] | None,
) -> tuple[Commit, int]:
    """Fetch what is missing of a revision and make a commit of it. Returns it and the bytes that were fetched."""
    revision = release.revision
    partial = storage.root / FETCHING / revision.repo_id / revision.commit_hash
    partial.mkdir(parents=True, exist_ok=True)
    known = _known(storage, release)
    _require_space(release, known, partial)
    # code is carried like any other file: nothing of a mirror is run here
    fetch = Fetch(release, hub, partial, held, progress, known=known, code_allowed=True)
    fetch.run(release.files, MAX_WORKERS)
    sources = {f.path: partial / f.path for f in release.files}
    commit = storage.write_commit(revision.repo_id, keep_files(storage, held, sources, move=True), revision.commit_hash)
    shutil.rmtree(partial)
    return commit, fetch.fetched_bytes


def _whole(storage: HubStorage, revision: ModelRevision) -> Commit | None:
    """The commit when it is here with all its contents."""
    commit = storage.commit(revision.repo_id, revision.commit_hash)
    return commit if commit is not None and all(storage.content(f) for f in commit.files) else None


def _known(storage: HubStorage, release: Release) -> dict[str, Path]:
    """sha256 -> where its content is here already."""
    stored = [here for f in release.files if (here := _stored(f)) is not None]
    return {f.sha256: at for f in stored if (at := storage.content(f)) is not None}


def _require_space(release: Release, known: Mapping[str, Path], partial: Path) -> None:
    """Raises: DiskFull when what has to be fetched does not fit."""
    absent = [f for f in release.files if f.sha256 not in known]
    missing = sum(max(0, f.size_bytes - present_bytes(partial / f.path)) for f in absent)
    free = shutil.disk_usage(partial).free
    if missing > free:
        raise DiskFull(
            f"{release.revision} needs {missing} more bytes and {partial} has {free} free: make room and run "
            "this again, since what is fetched is kept."
        )


def _stored(file: RepoFile) -> StoredFile | None:
    """A file as it would be kept here; None for one whose sha256 the listing does not tell."""
    if file.sha256 is None:
        return None
    return StoredFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256, git_sha1="")


def _settings(
    storage: HubStorage, release: Release, listed: RepoListing, *, gated: Literal[False, "auto", "manual"] | None
) -> RepoSettings:
    """What the other Hub says of the repository beside its files. Who may read it stays as it is here."""
    is_new = not (storage.root / f"{release.revision.repo_id}.hub.json").exists()
    here = RepoSettings(gated=gated or False, private=listed.private)
    here = here if is_new else storage.settings(release.revision.repo_id)
    return here.model_copy(
        update={
            "tags": tuple(t for t in listed.tags if not t.startswith(DERIVED_TAGS)),
            "pipeline_tag": listed.pipeline_tag,
            "created_at": listed.created_at,
            "license": release.license,
        }
    )
