"""One process at a time works on a directory of a shared filesystem, and a dead one does not block the next.

A claim is a file made with O_EXCL that its owner touches every few seconds. Neither flock nor hard links are used: some
network filesystems only pretend to have them. A claim is stale when its owner is known to be gone (same machine), or
when its time has not moved for `stale_after_s` on the waiter's own clock: two machines' clocks are never compared.
"""

import glob
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from modelops_dagster.domain.errors import Conflict

# the token of a claim whose owner was killed between making it and writing it, which takes it microseconds
BLANK = "blank"
BLANK_STALE_S = 5.0


@dataclass
class Claim:
    """A claim that is held. `lost` is set when another process took it over."""

    path: Path
    token: str
    lost: threading.Event = field(default_factory=threading.Event)

    def confirm(self) -> None:
        """Make sure that the claim is still ours.

        Raises:
            Conflict: this process was silent for so long that another one took over.
        """
        if _read(self.path).get("token") != self.token:
            self.lost.set()
        if self.lost.is_set():
            raise Conflict(f"Another process took over {self.path.stem} while this one stood still: run it again.")


@contextmanager
def claim(
    path: Path,
    *,
    stale_after_s: float = 60.0,
    beat_s: float = 5.0,
    poll_s: float = 0.2,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Claim]:
    """Hold the claim at `path`, waiting for its present owner for as long as that one is alive.

    Args:
        path: the claim file; its directory exists.
        stale_after_s: how long an owner on another machine may be silent.
        beat_s: seconds between two signs of life of ours.
        poll_s: seconds between two looks at somebody else's claim.
        on_wait: called at every look while waiting.
    """
    held = Claim(path, uuid.uuid4().hex)
    content = json.dumps({"token": held.token, **_identity()})
    watch = _Watch()
    while not _create(path, content):
        abandoned = _abandoned_token(path, watch, stale_after_s)
        if abandoned is not None and _take_over(path, abandoned, content, stale_after_s):
            break
        if on_wait is not None:
            on_wait()
        time.sleep(poll_s)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(held, stop, beat_s), name=f"claim {path.name}", daemon=True)
    beat.start()
    try:
        yield held
    finally:
        stop.set()
        beat.join()
        if _read(path).get("token") == held.token:
            for stray in path.parent.glob(f"{glob.escape(path.name)}.*"):  # of waiters that were killed
                stray.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


@dataclass
class _Watch:
    """Since when, on this process's clock, another process's claim has not changed."""

    sign: tuple[str, int] = ("", -1)
    since: float = 0.0

    def still_s(self, token: str, mtime_ns: int) -> float:
        if (token, mtime_ns) != self.sign:
            self.sign, self.since = (token, mtime_ns), time.monotonic()
        return time.monotonic() - self.since


def _machine() -> str:
    """Where a process id means something: the host, and on Linux its pid namespace."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def _identity() -> dict[str, object]:
    return {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _create(path: Path, content: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(content)
    except OSError:  # a full disk; an empty claim would make the next run wait
        path.unlink(missing_ok=True)
        raise
    return True


def _read(path: Path) -> dict[str, object]:
    """The content of a claim; empty when it is gone or its owner was killed before writing it."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _token(owner: dict[str, object]) -> str:
    return str(owner.get("token", BLANK))


def _abandoned_token(path: Path, watch: _Watch, stale_after_s: float) -> str | None:
    """The token of the claim at `path` when nobody holds it any more, else None."""
    owner = _read(path)
    try:
        still_s = watch.still_s(_token(owner), path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    limit_s = stale_after_s if owner else min(stale_after_s, BLANK_STALE_S)
    return _token(owner) if still_s >= limit_s or _is_gone(owner) else None


def _is_gone(owner: dict[str, object]) -> bool:
    """Whether the owner is a process of this machine, and has ended."""
    if owner.get("machine") != _machine():
        return False
    try:
        process = psutil.Process(int(str(owner["pid"])))
        started = process.create_time()
        if process.status() == psutil.STATUS_ZOMBIE:  # dead, and its parent has not looked yet
            return True
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    # a later process with the same id; the tolerance is for clocks that are set while the owner runs
    return abs(started - float(str(owner["started"]))) > 60.0


def _take_over(path: Path, token: str, content: str, stale_after_s: float) -> bool:
    """Replace the abandoned claim that has `token`. A marker named after it lets exactly one waiter do it."""
    marker = path.with_name(f"{path.name}.{token}.takeover")
    if not _create(marker, content):
        maker = _read(marker)
        if _is_gone(maker) or _age_s(marker) > (2 * stale_after_s if maker else BLANK_STALE_S):
            marker.unlink(missing_ok=True)  # its maker was killed between two lines of this function
        return False
    try:
        if not path.exists() or _token(_read(path)) != token:
            return False  # a faster waiter has it, or had it
        staged = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        staged.write_text(content)
        staged.replace(path)
        return True
    finally:
        marker.unlink(missing_ok=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _beat(held: Claim, stop: threading.Event, beat_s: float) -> None:
    while not stop.wait(beat_s):
        try:
            if _read(held.path).get("token") != held.token:
                held.lost.set()
                return
            os.utime(held.path)
        except OSError:
            continue  # a hiccup of a network filesystem; `confirm` has the last word
