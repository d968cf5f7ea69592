"""What the store holds, what of it is pinned, and deleting what nobody needs."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from modelops_dagster.clients.checkpoints.claims import claim
from modelops_dagster.clients.checkpoints.manifests import (
    MANIFEST_NAME,
    PARTIAL_SUFFIX,
    read_manifest,
    read_verification,
    verification_path,
    whole_directories,
)
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.retention import Retained, StoredCheckpoint, freed_bytes
from modelops_dagster.domain.values import Value

PIN_SUFFIX = ".pin"
DELETED_SUFFIX = ".deleted"


class Pruned(Value):
    """What a round of retention did."""

    decisions: tuple[Retained, ...]
    deleted: tuple[str, ...] = Field(description="directories of checkpoints that are gone")
    leftovers: tuple[str, ...] = Field(description="directories that killed fetches and deletions had left, likewise")
    freed_bytes: int = Field(description="a file that a kept checkpoint shares frees nothing")
    dry_run: bool = Field(description="nothing was done; the rest says what would be")


class Inventory:
    """The checkpoints under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()

    def checkpoints(self, repo_id: str | None = None) -> list[StoredCheckpoint]:
        """Every whole checkpoint, or those of one repository.

        Raises:
            IntegrityError: a manifest cannot be read.
        """
        folders = sorted(p for p in self.root.glob(repo_id or "*/*") if p.is_dir())
        found = (self._stored(directory) for folder in folders for directory in whole_directories(folder))
        return [c for c in found if c is not None]

    def pin(self, checkpoint: StoredCheckpoint, reason: str, by: str, at: datetime) -> None:
        """Keep a checkpoint whatever the policy says, until it is unpinned."""
        note = {"reason": f"{reason} ({by}, {at:%Y-%m-%d})"}
        _beside(Path(checkpoint.directory), PIN_SUFFIX).write_text(json.dumps(note))

    def unpin(self, checkpoint: StoredCheckpoint) -> None:
        """Raises: InvalidSpec when it is not pinned."""
        path = _beside(Path(checkpoint.directory), PIN_SUFFIX)
        if not path.exists():
            raise InvalidSpec(f"{checkpoint.revision} is not pinned: there is nothing to undo.", field="revision")
        path.unlink()

    def prune(self, decisions: Iterable[Retained], older_than_s: float, *, dry_run: bool) -> Pruned:
        """Delete what was decided not to be kept, and what fetches and deletions left behind that were killed.

        A checkpoint loses its manifest first, so a kill leaves nothing that looks whole. One that was asked for since
        it was decided on is left alone.

        Args:
            decisions: over every checkpoint.
            older_than_s: how long nobody has gone on with a fetch before what it left is deleted, in seconds.
            dry_run: delete nothing, and say what would be.
        """
        decisions = tuple(decisions)
        doomed = [d.checkpoint for d in decisions if not d.keep]
        leftovers = list(self._leftovers(older_than_s))
        if dry_run:
            places = [*(Path(c.directory) for c in doomed), *leftovers]
            deleted = tuple(c.directory for c in doomed)
            return Pruned(decisions=decisions, deleted=deleted, leftovers=tuple(map(str, leftovers)),
                          freed_bytes=freed_bytes(_names_of(places)), dry_run=True)  # fmt: skip
        condemned = {c.directory: place for c in doomed if (place := self._condemn(c)) is not None}
        places = [*condemned.values(), *leftovers]
        freed = freed_bytes(_names_of(places))
        for place in places:
            shutil.rmtree(place)
        return Pruned(decisions=decisions, deleted=tuple(condemned), leftovers=tuple(map(str, leftovers)),
                      freed_bytes=freed, dry_run=False)  # fmt: skip

    def _condemn(self, checkpoint: StoredCheckpoint) -> Path | None:
        """Make a checkpoint not whole any more, under another name; None when somebody wants it after all."""
        directory = Path(checkpoint.directory)
        with claim(_beside(directory, ".claim")):
            now = self._stored(directory)
            if now is None or now.pinned is not None or now.last_used_at > checkpoint.last_used_at:
                return None
            (directory / MANIFEST_NAME).rename(directory / f"{MANIFEST_NAME}{DELETED_SUFFIX}")
            verification_path(directory).unlink(missing_ok=True)
            condemned = _beside(directory, DELETED_SUFFIX)
            if condemned.exists():
                shutil.rmtree(condemned)  # an earlier deletion was killed
            return directory.rename(condemned)

    def _stored(self, directory: Path) -> StoredCheckpoint | None:
        manifest = read_manifest(directory)
        if manifest is None:
            return None
        fetched_at = (directory / MANIFEST_NAME).stat().st_mtime
        verified = read_verification(directory)
        return StoredCheckpoint(
            revision=manifest.revision,
            scheme=manifest.scheme,
            directory=str(directory),
            size_bytes=manifest.size_bytes,
            fetched_at=datetime.fromtimestamp(fetched_at, UTC),
            last_used_at=datetime.fromtimestamp(max(fetched_at, verified.at if verified else 0.0), UTC),
            pinned=_pin_of(directory),
        )

    def _leftovers(self, older_than_s: float) -> Iterator[Path]:
        """Directories that are not whole and that nobody works on."""
        for path in sorted(self.root.glob("*/*/*")):
            if path.name.endswith(DELETED_SUFFIX):
                yield path
            elif path.name.endswith(PARTIAL_SUFFIX) and path.is_dir():
                claimed = path.with_name(f"{path.name.removesuffix(PARTIAL_SUFFIX)}.claim").exists()
                newest = max(p.stat().st_mtime for p in (path, *path.rglob("*")))
                if not claimed and time.time() - newest >= older_than_s:
                    yield path


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(directory.name + suffix)


def _pin_of(directory: Path) -> str | None:
    """Why the checkpoint is pinned. A pin that cannot be read still holds."""
    try:
        return str(json.loads(_beside(directory, PIN_SUFFIX).read_text())["reason"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "no reason can be read"


def _names_of(directories: Iterable[Path]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(device, inode) -> (size in bytes, names in all, names under `directories`)."""
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for directory in directories:
        for folder, _, names in os.walk(directory):
            for name in names:
                stat = os.lstat(Path(folder) / name)
                _, _, seen = found.get((stat.st_dev, stat.st_ino), (0, 0, 0))
                found[stat.st_dev, stat.st_ino] = (stat.st_size, stat.st_nlink, seen + 1)
    return found
