"""Files that another revision of the same repository has already, so that the Hub is not asked for them again."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

from modelops_dagster.clients.checkpoints.manifests import read_manifest, whole_directories
from modelops_dagster.domain.errors import IntegrityError

# of <linux/fs.h>: two files share their blocks until one is written to; Btrfs, XFS and some network filesystems have it
FICLONE = 0x40049409
# another filesystem, no such call here, no right to it, too many links
NO_LINKS = frozenset({errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EMLINK})


def known_files(repository: Path) -> dict[str, Path]:
    """sha256 -> a file of a whole checkpoint under `repository` that had it when it was fetched.

    Args:
        repository: the folder with one directory per revision.
    """
    found: dict[str, Path] = {}
    for directory in whole_directories(repository):  # the newest first: it is likeliest to stay
        try:
            manifest = read_manifest(directory)
        except IntegrityError:
            continue  # it is told when that checkpoint is used
        for file in manifest.files if manifest is not None else ():
            path = directory / file.path
            if path.is_file() and not path.is_symlink() and path.stat().st_size == file.size_bytes:
                found.setdefault(file.sha256, path)
    return found


def can_link(source: Path, folder: Path) -> bool:
    """Whether a file of `folder` may be another name of `source`, which needs no room. A guess: `place` tries."""
    return source.stat().st_dev == folder.stat().st_dev


def place(source: Path, target: Path) -> None:
    """Make `target` have the content of `source`: a hard link, else shared blocks, else a copy. It appears whole.

    Raises:
        OSError: the disk refused.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
        return
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    staged = target.with_name(f"{target.name}.copy")
    with source.open("rb") as given, staged.open("wb") as taken:
        if not _share_blocks(given.fileno(), taken.fileno()):
            shutil.copyfileobj(given, taken, 1 << 20)
    staged.replace(target)


def _share_blocks(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    return True
