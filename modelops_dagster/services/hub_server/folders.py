"""Folders that people put models into: which files count, what is known of them unread, and placing files whole."""

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from modelops_dagster.clients.checkpoints.digests import hash_file


class DigestCache:
    """Digests by (path, size, mtime), one line each in a file that only grows, so that a restart reads no weights.

    Args:
        root: of the files.
        path: of the cache.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self._root = root
        self._path = path
        self._lock = threading.Lock()
        self._hashing: dict[str, threading.Lock] = {}
        self._known: dict[str, list[object]] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                key, *entry = json.loads(line)
            except ValueError:
                continue  # a kill cut the line short; what is lost is computed again
            self._known[key] = entry

    def of(self, path: Path) -> tuple[str, str]:
        """sha256 and git blob id of a file under the root, from the cache when it has not changed."""
        key, stamp = self._stamp(path)
        with self._hashing.setdefault(key, threading.Lock()):  # who asks meanwhile waits, and does not read it too
            known = self._known.get(key)
            if known is not None and known[:2] == stamp:
                return str(known[2]), str(known[3])
            _, sha256, git_sha1 = hash_file(path)
            self._put(key, [*stamp, sha256, git_sha1])
            return sha256, git_sha1

    def note(self, path: Path, sha256: str, git_sha1: str) -> None:
        """Remember digests that were computed elsewhere."""
        key, stamp = self._stamp(path)
        self._put(key, [*stamp, sha256, git_sha1])

    def _stamp(self, path: Path) -> tuple[str, list[object]]:
        stat = path.stat()
        return path.relative_to(self._root).as_posix(), [stat.st_size, stat.st_mtime_ns]

    def _put(self, key: str, entry: list[object]) -> None:
        with self._lock:
            if self._known.get(key) == entry:
                return
            self._known[key] = entry
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as out:
                out.write(json.dumps([key, *entry]) + "\n")


def repo_paths(folder: Path) -> Iterator[Path]:
    """The files of a repository's folder, in order; not the hidden ones other than .gitattributes, and no links."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        is_linked = any((folder / Path(*parts[:i])).is_symlink() for i in range(1, len(parts) + 1))
        if not is_hidden("/".join(parts)) and not is_linked and path.is_file():
            yield path


def is_hidden(path: str) -> bool:
    """Whether a file is left out of a commit that is made of a folder."""
    return any(p.startswith(".") and p != ".gitattributes" for p in path.split("/"))


def folder_state(folder: Path) -> str:
    """Changes when a file of the folder does, judged without reading any."""
    state = hashlib.sha256()
    for path in repo_paths(folder):
        stat = path.stat()
        state.update(f"{path.relative_to(folder).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return state.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link where the filesystem has them, a copy elsewhere; `target` appears whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        staged = target.with_name(f".{uuid.uuid4().hex}.tmp")
        shutil.copy2(source, staged)
        staged.replace(target)
