"""One commit out of one folder, visible at once."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from modelops_dagster.clients.checkpoints.claims import Claim, claim
from modelops_dagster.clients.checkpoints.store import DISK_IS_FULL
from modelops_dagster.domain.errors import DiskFull, InvalidSpec
from modelops_dagster.domain.hub import require_repo_id
from modelops_dagster.services.hub_server.folders import folder_state, repo_paths
from modelops_dagster.services.hub_server.storage import Commit, HubStorage, RefKind, RepoSettings, StoredFile
from modelops_dagster.services.hub_server.webhook import Webhook


def publish(
    root: Path,
    repo_id: str,
    source_dir: Path,
    *,
    settings: RepoSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    webhook: Webhook | None = None,
) -> Commit:
    """Make main of `repo_id` hold exactly the files of `source_dir`. Readers see the previous commit until it is done.

    Publishing the same content again changes nothing. Older commits stay readable by their hash. A killed publication
    leaves the previous commit in place, and the next one completes it.

    Args:
        root: the folder that is, or will be, served.
        repo_id: org/name.
        source_dir: what to publish; links to files are followed, hidden files are left out.
        settings: written to the repository's settings file when given.
        progress: called with (bytes done, bytes in all).
        webhook: told when main has moved; a push that is lost undoes nothing.

    Raises:
        InvalidSpec: not a repository id, or `source_dir` has no files.
        DiskFull: no room for the copy; the previous commit stays.
        HubUnavailable: the commit is published, and the webhook could not be told.
    """
    require_repo_id(repo_id)
    sources = list(_sources(source_dir)) if source_dir.is_dir() else []
    if not sources:
        raise InvalidSpec(f"{source_dir} has no files to publish: name a folder with a model in it.", field="source")
    (root / repo_id.split("/")[0]).mkdir(parents=True, exist_ok=True)
    storage = HubStorage(root)
    with disk_errors(repo_id), claim(storage.publish_claim(repo_id)) as held:
        before = storage.main(repo_id)  # what was put into the folder by hand is a commit of its own
        paths = {p.relative_to(source_dir).as_posix(): p for p in sources}
        commit = storage.write_commit(repo_id, keep_files(storage, held, paths, progress=progress))
        if settings is not None:
            storage.write_settings(repo_id, settings)
        held.confirm()
        place_main(storage, repo_id, commit)
    if webhook is not None and (before is None or before.commit_hash != commit.commit_hash):
        webhook.push(repo_id, storage.settings(repo_id), before.commit_hash if before else None, commit.commit_hash)
    return commit


def name_commit(root: Path, repo_id: str, kind: RefKind, name: str, commit_hash: str | None = None) -> str:
    """Let a branch beside main, or a tag, stand at a commit of a repository.

    Args:
        root: the folder that is, or will be, served.
        repo_id: org/name.
        kind: what to make or move.
        name: of the branch or tag.
        commit_hash: None takes what main stands at.

    Returns:
        The commit hash.

    Raises:
        InvalidSpec: no such repository or commit, or not a name for a ref.
    """
    require_repo_id(repo_id)
    storage = HubStorage(root)
    main = storage.main(repo_id)
    if main is None:
        raise InvalidSpec(f"{root} has no repository {repo_id}: publish or mirror it first.", field="repo_id")
    with claim(storage.publish_claim(repo_id)):
        storage.set_ref(repo_id, kind, name, commit_hash or main.commit_hash)
    return commit_hash or main.commit_hash


def keep_files(
    storage: HubStorage,
    held: Claim,
    sources: Mapping[str, Path],
    *,
    move: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[StoredFile]:
    """Keep files as objects of the Hub.

    Args:
        storage: the Hub.
        held: the claim on the repository.
        sources: path in the repository -> file.
        move: take the files themselves instead of copies.
        progress: called with (bytes done, bytes in all).
    """
    staging = held.path.with_name("staging")
    shutil.rmtree(staging, ignore_errors=True)  # of a publication that was killed
    staging.mkdir()
    total_bytes = sum(p.stat().st_size for p in sources.values())
    stored, done_bytes = [], 0
    for path, source in sources.items():
        stored.append(storage.keep_copy(source, path, staging, move=move))
        done_bytes += stored[-1].size_bytes
        if progress is not None:
            progress(done_bytes, total_bytes)
    staging.rmdir()
    return stored


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full disk into one sentence. `what` was being written."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_IS_FULL:
            raise
        raise DiskFull(
            f"The disk became full while {what} was written: make room and run this again, since what is there is kept."
        ) from error


def place_main(storage: HubStorage, repo_id: str, commit: Commit) -> None:
    """Make the repository's folder hold the commit, then let main stand there. The caller holds the claim."""
    folder = storage.root / repo_id
    marker = storage.marker(repo_id)
    marker.touch()
    folder.mkdir(exist_ok=True)
    wanted = {f.path for f in commit.files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for file in commit.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.object_link(file, target)
    storage.move_main(repo_id, commit, folder_state(folder))
    marker.unlink()


def _sources(folder: Path) -> list[Path]:
    """Files to publish. A snapshot in the official client's cache consists of links, so these are followed."""
    linked = [p for p in folder.rglob("*") if p.is_symlink() and p.is_file()]
    hidden = [p for p in linked if any(part.startswith(".") for part in p.relative_to(folder).parts)]
    return sorted({*repo_paths(folder), *linked} - set(hidden))
