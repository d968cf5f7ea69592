"""A folder of models as repositories with commits: what is where, and how a commit becomes visible.

    ROOT/<org>/<name>/…            the files of the branch main
    ROOT/<org>/<name>.hub.json     settings of the repository, optional (`RepoSettings`)
    ROOT/.objects/<aa>/<sha256>    every content that was ever published, once
    ROOT/.commits/<org>/<name>/    <commit>.json for every commit; main.json: where main stands; refs.json: the other
                                   branches, and the tags

A repository is what `main.json` says. Files that were put into its folder by hand become a commit at the next look at
it; `publish` makes one commit out of a whole folder at once, and until it is done readers see the previous one.
"""

import hashlib
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from modelops_dagster.clients.checkpoints.digests import hash_file
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.hub import COMMIT_HASH, REPO_ID
from modelops_dagster.domain.values import Value
from modelops_dagster.services.hub_server.folders import DigestCache, folder_state, is_hidden, link_or_copy, repo_paths

MAIN = "main"
OBJECTS, COMMITS = ".objects", ".commits"
REF_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
RefKind = Literal["branch", "tag"]
LFS_BYTES = 10 << 20
LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".model")


class RepoSettings(Value):
    """`<name>.hub.json`: what a repository's files do not say."""

    private: bool = False
    gated: Literal[False, "auto", "manual"] = False
    disabled: bool = False
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = "text-generation"
    created_at: datetime | None = None
    license: str | None = None


class StoredFile(Value):
    """One file of a commit."""

    path: str
    size_bytes: int
    sha256: str
    git_sha1: str

    @property
    def is_lfs(self) -> bool:
        return self.size_bytes >= LFS_BYTES or self.path.endswith(LFS_SUFFIXES)


class Commit(Value):
    """A state of a repository. Its hash follows from its files, so the same content is the same commit."""

    commit_hash: str
    created_at: datetime
    files: tuple[StoredFile, ...]


class Main(Value):
    """Where the branch main stands, and which state of the folder that was."""

    commit_hash: str
    folder_state: str
    history: tuple[str, ...] = Field(description="commits that main stood at, newest last")


class Refs(Value):
    """Names for commits beside main: name -> commit hash."""

    branches: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)

    def commit_of(self, name: str) -> str | None:
        """What a branch or tag, with or without `refs/heads/` or `refs/tags/` in front, stands for."""
        branches = {**self.branches, **{f"refs/heads/{n}": c for n, c in self.branches.items()}}
        return branches.get(name) or self.tags.get(name) or self.tags.get(name.removeprefix("refs/tags/"))


class HubStorage:
    """The repositories under `root`. Safe to use from several threads, and from several processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._digests = DigestCache(self.root, self.root / OBJECTS / "digests.jsonl")
        self._locks: dict[str, threading.Lock] = {}
        self._commits: dict[tuple[str, str], Commit] = {}

    def repo_ids(self, org: str | None = None) -> Iterator[str]:
        """Every repository that has a folder, in order of name; of one organisation when it is given."""
        orgs = [self.root / org] if org is not None and REPO_ID.fullmatch(f"{org}/x") else self.root.iterdir()
        for folder in sorted(p for p in orgs if p.is_dir() and not p.name.startswith(".")):
            for name in sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.is_symlink()):
                if REPO_ID.fullmatch(f"{folder.name}/{name}"):
                    yield f"{folder.name}/{name}"

    def settings(self, repo_id: str) -> RepoSettings:
        """Raises: InvalidSpec when the settings file does not hold."""
        path = self.root / f"{repo_id}.hub.json"
        try:
            return RepoSettings.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return RepoSettings()
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise InvalidSpec(f"{path} does not hold at {field!r}: {first['msg']}; correct it.", field=field) from error

    def write_settings(self, repo_id: str, settings: RepoSettings) -> None:
        document = settings.model_dump_json(exclude_defaults=True)
        write_whole(self.root / f"{repo_id}.hub.json", document, is_durable=False)

    def main(self, repo_id: str) -> Commit | None:
        """The commit that main stands at, with what was put into the folder by hand. None: no such repository."""
        folder = self.root / repo_id
        if not folder.is_dir() or folder.is_symlink():
            return None
        with self._locks.setdefault(repo_id, threading.Lock()):
            main = self._read_main(repo_id)
            if self.marker(repo_id).exists():  # a publication is under way, or was killed: its folder is half a state
                return self.commit(repo_id, main.commit_hash) if main else None
            state = folder_state(folder)
            if main is None or main.folder_state != state:
                commit = self._commit_of(repo_id, folder, main)
                if self.marker(repo_id).exists() or folder_state(folder) != state:
                    return self.commit(repo_id, main.commit_hash) if main else None
                self.move_main(repo_id, commit, state)
                return commit
            return self.commit(repo_id, main.commit_hash)

    def commit(self, repo_id: str, commit_hash: str) -> Commit | None:
        """A commit of the repository, whether main still stands at it or not."""
        key = (repo_id, commit_hash)
        if not COMMIT_HASH.fullmatch(commit_hash):
            return None
        if key not in self._commits:
            try:
                content = (self._commit_folder(repo_id) / f"{commit_hash}.json").read_bytes()
            except FileNotFoundError:
                return None
            self._commits[key] = Commit.model_validate_json(content)
        return self._commits[key]

    def refs(self, repo_id: str) -> Refs:
        """The branches beside main, and the tags."""
        try:
            return Refs.model_validate_json((self._commit_folder(repo_id) / "refs.json").read_bytes())
        except FileNotFoundError:
            return Refs()

    def set_ref(self, repo_id: str, kind: RefKind, name: str, commit_hash: str) -> None:
        """Let a branch other than main, or a tag, stand at a commit. The caller holds the repository's claim.

        Raises:
            InvalidSpec: not a name for a ref, or the repository has no such commit.
        """
        if not REF_NAME.fullmatch(name) or ".." in name or name == MAIN or COMMIT_HASH.fullmatch(name):
            raise InvalidSpec(
                f"{name!r} cannot name a {kind}: use letters, digits, '.', '_', '-' and '/', and neither {MAIN!r} nor "
                "40 hex digits.",
                field="name",
            )
        if self.commit(repo_id, commit_hash) is None:
            raise InvalidSpec(
                f"{repo_id} has no commit {commit_hash!r} here: publish or mirror it first.", field="commit"
            )
        refs = self.refs(repo_id)
        field = "tags" if kind == "tag" else "branches"
        moved = refs.model_copy(update={field: {**getattr(refs, field), name: commit_hash}})
        write_whole(self._commit_folder(repo_id) / "refs.json", moved.model_dump_json(), is_durable=False)

    def history(self, repo_id: str) -> list[Commit]:
        """Commits that main stood at, newest first."""
        main = self._read_main(repo_id)
        hashes = reversed(main.history) if main else ()
        return [c for h in hashes if (c := self.commit(repo_id, h)) is not None]

    def history_of(self, repo_id: str, commit: Commit) -> list[Commit]:
        """A commit and what main stood at before it, newest first; it alone when main never stood there."""
        history = self.history(repo_id)
        hashes = [c.commit_hash for c in history]
        return history[hashes.index(commit.commit_hash) :] if commit.commit_hash in hashes else [commit]

    def first_seen(self, repo_id: str) -> datetime | None:
        """When the repository got its first commit."""
        history = self.history(repo_id)
        return min((c.created_at for c in history), default=None)

    def content(self, file: StoredFile) -> Path | None:
        """Where the bytes of `file` are; None when they were overwritten in place since they were committed."""
        path = self._object(file.sha256)
        if not path.is_file():
            return None
        return path if self._digests.of(path)[0] == file.sha256 else None

    def keep_link(self, source: Path, path: str) -> StoredFile:
        """Keep a file of a repository's folder as an object, without a second copy where the filesystem has hard links.

        Args:
            source: the file.
            path: its path in the repository.
        """
        sha256, git_sha1 = self._digests.of(source)
        kept = self._object(sha256)
        is_new = not kept.exists()
        if is_new:
            link_or_copy(source, kept)
        if is_new or kept.samefile(source):  # else another file, which is read before it is served
            self._digests.note(kept, sha256, git_sha1)
        return StoredFile(path=path, size_bytes=source.stat().st_size, sha256=sha256, git_sha1=git_sha1)

    def keep_copy(self, source: Path, path: str, staging: Path, *, move: bool = False) -> StoredFile:
        """Keep a copy of a file as an object, so that writing into `source` later does not change it.

        Args:
            source: the file.
            path: its path in the repository.
            staging: a folder under the root where the copy is made; whoever holds the repository clears it.
            move: take `source` itself, which nobody else writes to, instead of a copy.
        """
        staged = staging / uuid.uuid4().hex
        source.replace(staged) if move else shutil.copyfile(source, staged)
        size_bytes, sha256, git_sha1 = hash_file(staged)
        file = StoredFile(path=path, size_bytes=size_bytes, sha256=sha256, git_sha1=git_sha1)
        if self.content(file) is None:
            staged.chmod(0o444)
            self._object(sha256).parent.mkdir(parents=True, exist_ok=True)
            staged.replace(self._object(sha256))
            self._digests.note(self._object(sha256), sha256, git_sha1)
        else:
            staged.unlink()
        return file

    def write_commit(self, repo_id: str, files: list[StoredFile], commit_hash: str | None = None) -> Commit:
        """Write a commit of these files, unless there is one. Main does not move.

        Args:
            commit_hash: what the commit is called where it comes from; None: its hash follows from its files.
        """
        ordered = tuple(sorted(files, key=lambda f: f.path))
        listing = "".join(f"{f.path}\0{f.git_sha1}\n" for f in ordered)
        commit_hash = commit_hash or hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
        known = self.commit(repo_id, commit_hash)
        if known is not None:
            return known
        commit = Commit(commit_hash=commit_hash, created_at=datetime.now(UTC), files=ordered)
        write_whole(self._commit_folder(repo_id) / f"{commit_hash}.json", commit.model_dump_json(), is_durable=False)
        return commit

    def move_main(self, repo_id: str, commit: Commit, state: str) -> None:
        """Let main stand at `commit`, which is what the folder holds in `state`."""
        before = self._read_main(repo_id)
        history = tuple(h for h in (before.history if before else ()) if h != commit.commit_hash)
        main = Main(commit_hash=commit.commit_hash, folder_state=state, history=(*history, commit.commit_hash))
        write_whole(self._commit_folder(repo_id) / "main.json", main.model_dump_json(), is_durable=False)

    def marker(self, repo_id: str) -> Path:
        """Exists while `publish` changes the repository's folder."""
        org, name = repo_id.split("/")
        return self.root / org / f".{name}.publishing"

    def object_link(self, file: StoredFile, target: Path) -> None:
        """Put the content of `file` at `target`, replacing what is there."""
        staged = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        link_or_copy(self._object(file.sha256), staged)
        staged.replace(target)

    def publish_claim(self, repo_id: str) -> Path:
        """Where a publication claims the repository."""
        folder = self._commit_folder(repo_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "publish.claim"

    def _commit_of(self, repo_id: str, folder: Path, main: Main | None) -> Commit:
        """What the folder holds. The commit of main keeps its hash when only times changed, as by a copy."""
        files = [self.keep_link(p, p.relative_to(folder).as_posix()) for p in repo_paths(folder)]
        before = self.commit(repo_id, main.commit_hash) if main else None
        if before is not None and {f for f in before.files if not is_hidden(f.path)} == set(files):
            return before
        return self.write_commit(repo_id, files)

    def _read_main(self, repo_id: str) -> Main | None:
        try:
            return Main.model_validate_json((self._commit_folder(repo_id) / "main.json").read_bytes())
        except FileNotFoundError:
            return None

    def _commit_folder(self, repo_id: str) -> Path:
        return self.root / COMMITS / repo_id

    def _object(self, sha256: str) -> Path:
        return self.root / OBJECTS / sha256[:2] / sha256
