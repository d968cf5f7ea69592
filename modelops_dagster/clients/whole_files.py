"""Files that are replaced as a whole: whoever reads one, or is killed over it, sees the old content or the new one."""

import os
import uuid
from pathlib import Path


def write_whole(path: Path, content: str | bytes, *, is_private: bool = False, is_durable: bool = True) -> None:
    """Put `content` (text as UTF-8) in the place of what the file holds; its folder is made where there is none.

    Args:
        is_private: nobody but the owner may ever read it.
        is_durable: a power cut, too, leaves the old content or the new one; that waits for the disk.

    Raises:
        OSError: it could not be written; the old content stays, and nothing lies beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_private else 0o666)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
            if is_durable:
                out.flush()
                os.fsync(out.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
