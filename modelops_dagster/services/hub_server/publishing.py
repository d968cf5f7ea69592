"""One commit out of one folder, visible at once."""

import shutil
from collections.abc import Callable
from pathlib import Path

from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.hub import require_repo_id
from modelops_dagster.services.hub_server.storage import (
    Commit,
    HubStorage,
    RepoSettings,
    folder_state,
    repo_paths,
    write_atomically,
)


def publish(
    root: Path,
    repo_id: str,
    source_dir: Path,
    *,
    settings: RepoSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
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

    Raises:
        InvalidSpec: not a repository id, or `source_dir` has no files.
    """
    require_repo_id(repo_id)
    sources = list(_sources(source_dir)) if source_dir.is_dir() else []
    if not sources:
        raise InvalidSpec(f"{source_dir} has no files to publish: name a folder with a model in it.", field="source")
    (root / repo_id.split("/")[0]).mkdir(parents=True, exist_ok=True)
    storage = HubStorage(root)
    total_bytes = sum(p.stat().st_size for p in sources)
    with claim(storage.publish_claim(repo_id)) as held:
        staging = held.path.with_name("staging")
        shutil.rmtree(staging, ignore_errors=True)  # of a publication that was killed
        staging.mkdir()
        stored, done_bytes = [], 0
        for path in sources:
            stored.append(storage.keep_copy(path, path.relative_to(source_dir).as_posix(), staging))
            done_bytes += stored[-1].size_bytes
            if progress is not None:
                progress(done_bytes, total_bytes)
        storage.main(repo_id)  # what was put into the folder by hand is a commit of its own before it is replaced
        commit = storage.write_commit(repo_id, stored)
        if settings is not None:
            write_atomically(root / f"{repo_id}.hub.json", settings.model_dump_json(exclude_defaults=True))
        held.confirm()
        _replace_folder(storage, repo_id, commit)
        staging.rmdir()
    return commit


def _replace_folder(storage: HubStorage, repo_id: str, commit: Commit) -> None:
    """Make the repository's folder hold the commit, then let main stand there."""
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
