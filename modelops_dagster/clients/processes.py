"""Programs that outlive the one that started them: identity, groups, ports. Linux only (`/proc`).

Three facts shape this module. A pid is reused, so a process is known by pid, start time and boot. A program's helpers
outlive it (vLLM's EngineCore and Worker stay, with the memory, when the API server is killed), so what is ended is the
whole session, and everything that writes to the program's log. A dead process whose parent does not collect it stays
visible as a zombie, so a zombie counts as gone.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydantic import Field

from modelops_dagster.domain.errors import DiskFull, EndpointFailed, PortTaken
from modelops_dagster.domain.values import Value

PROC = Path("/proc")
_GONE = frozenset("ZXx")
_ESTABLISHED = "01"  # in /proc/net/tcp
MAX_LOG_READ = 1 << 20
_KILL_WAIT_S = 10.0
_COLLECT_WAIT_S = 2.0
_WILDCARDS = frozenset({"0.0.0.0", "::", "::ffff:0.0.0.0"})  # noqa: S104 - compared with, never bound to
# Children of this very program by (pid, start time), kept so that their exit status can be collected.
_children: dict[tuple[int, int], subprocess.Popen[bytes]] = {}


class ProcessIdentity(Value):
    """One process, for ever: the three together are never used again."""

    pid: int = Field(gt=0)
    start_ticks: int = Field(description="field 22 of /proc/<pid>/stat: clock ticks since boot")
    boot_id: str


class ProcessStat(NamedTuple):
    """The fields of /proc/<pid>/stat that are used here."""

    pid: int
    state: str
    ppid: int
    pgrp: int
    session: int
    start_ticks: int


def boot_id() -> str:
    """Differs after every boot of the machine."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def read_stat(pid: int) -> ProcessStat | None:
    """The process's line, or None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a process that runs now, or None when there is no such process."""
    stat = read_stat(pid)
    return ProcessIdentity(pid=pid, start_ticks=stat.start_ticks, boot_id=boot_id()) if stat else None


def spawn(argv: Sequence[str], environ: Mapping[str, str], log_path: Path, cwd: Path) -> ProcessIdentity:
    """Start a program in a session of its own, without a shell, with no input and with all output appended to a file.

    `environ` is the whole environment it gets. The program goes on when this one ends, however it ends.

    Raises:
        EndpointFailed: the program cannot be started (no such file, no right to run it, no memory).
        DiskFull: its log cannot be written.
    """
    try:
        log_path.parent.mkdir(parents=True, exist_ok=True)
        cwd.mkdir(parents=True, exist_ok=True)
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskFull(f"{log_path} cannot be written ({error.strerror}); free space or fix its rights.") from error
    try:
        child = subprocess.Popen(
            list(argv),
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
        )
    except (OSError, ValueError) as error:
        raise EndpointFailed(f"{argv[0]!r} cannot be started: {error}; check that it is installed.") from error
    finally:
        os.close(log)
    identity = identify(child.pid)
    if identity is None:  # cannot be: a child that nobody waited for is at least a zombie
        raise EndpointFailed(f"{argv[0]!r} (pid {child.pid}) vanished while it was started; start it again.")
    _children[identity.pid, identity.start_ticks] = child
    return identity


def exit_code(identity: ProcessIdentity) -> int | None:
    """Exit status of a child of this program that ended (negative: the signal); None when it runs or is not ours."""
    child = _children.get((identity.pid, identity.start_ticks))
    if child is None:
        return None
    code = child.poll()
    if code is None and (stat := read_stat(child.pid)) is not None and stat.state in _GONE:
        # a zombie whose other threads are still ending cannot be collected in that very instant
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(_COLLECT_WAIT_S)
    return code


def is_alive(identity: ProcessIdentity) -> bool:
    """True while that very process runs. A zombie is dead; another process with its pid is another process."""
    exit_code(identity)  # collects our own zombie
    stat = read_stat(identity.pid)
    return (
        stat is not None
        and stat.state not in _GONE
        and stat.start_ticks == identity.start_ticks
        and boot_id() == identity.boot_id
    )


def rebooted_since(identity: ProcessIdentity) -> bool:
    """True when the machine was started anew after the process was."""
    return boot_id() != identity.boot_id


def _all_stats() -> list[ProcessStat]:
    stats = (read_stat(int(name)) for name in os.listdir(PROC) if name.isdigit())  # noqa: PTH208 - five times faster
    return [s for s in stats if s is not None and s.state not in _GONE]


def _writes_to(pid: int, log_path: str) -> bool:
    """True when the process's standard output or error is that file. Survives setsid, setproctitle and clean exec."""
    for fd in ("1", "2"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").removesuffix(" (deleted)") == log_path:  # noqa: PTH115
                return True
    return False


def session_members(identity: ProcessIdentity | None, log_path: Path | None = None) -> frozenset[int]:
    """Pids of every living process that belongs to a spawned program, whether or not its first process still runs.

    These are the session's processes and, with `log_path`, all whose output goes to that log (a helper that made a
    session of its own; everything, when the identity is not known). The kernel gives a session's number to no new
    process while the session has members, so a process that has the pid but another start time means that our
    session is empty.
    """
    stats = _all_stats()
    members = set()
    if identity is not None and not rebooted_since(identity):
        reused = any(s.pid == identity.pid and s.start_ticks != identity.start_ticks for s in stats)
        if not reused:
            members = {s.pid for s in stats if s.session == identity.pid and s.start_ticks >= identity.start_ticks}
    if log_path is not None:
        members |= {s.pid for s in stats if _writes_to(s.pid, str(log_path))}
    return frozenset(members - {os.getpid()})


def writers_under(folder: Path) -> dict[int, Path]:
    """Pid -> log, for every living process whose standard output or error is a file in `folder` or below it."""
    found: dict[int, Path] = {}
    for stat in _all_stats():
        for fd in ("1", "2"):
            with contextlib.suppress(OSError):
                target = Path(os.readlink(f"/proc/{stat.pid}/fd/{fd}").removesuffix(" (deleted)"))  # noqa: PTH115
                if target.is_relative_to(folder):
                    found[stat.pid] = target
    return found


def find_by_log(log_path: Path) -> ProcessIdentity | None:
    """The first process of the program that was spawned with this log, when it still runs."""
    leaders = [s for s in _all_stats() if s.pid == s.session and _writes_to(s.pid, str(log_path))]
    if not leaders:
        return None
    first = min(leaders, key=lambda s: s.start_ticks)
    return ProcessIdentity(pid=first.pid, start_ticks=first.start_ticks, boot_id=boot_id())


def last_lines(path: Path, lines: int) -> tuple[str, int]:
    """A log's last lines and its size in bytes; looks at the last MiB only. Empty when it cannot be read."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - MAX_LOG_READ))
            data = log.read(MAX_LOG_READ)
            end = max(0, size - MAX_LOG_READ) + len(data)
    except OSError:
        return "", 0
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:]), end


def _signal(pid: int, number: signal.Signals) -> None:
    """Signal the process that has the pid now; nothing when it is gone or is not ours to signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _wait_empty(identity: ProcessIdentity | None, log_path: Path | None, deadline: float) -> frozenset[int]:
    pause = 0.01
    while True:
        if identity is not None:
            exit_code(identity)
        members = session_members(identity, log_path)
        if not members or time.monotonic() >= deadline:
            return members
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)


def stop_group(identity: ProcessIdentity | None, grace_s: float, log_path: Path | None = None) -> None:
    """End every process of a spawned program: SIGTERM, at most `grace_s` seconds, SIGKILL, then look that none is left.

    Does nothing when none is left already. Which processes these are: see `session_members`.

    Raises:
        EndpointFailed: a process survived SIGKILL for ten seconds (it hangs in the kernel, or is not ours to kill).
    """
    members = session_members(identity, log_path)
    for pid in members:
        _signal(pid, signal.SIGTERM)
    if members:
        members = _wait_empty(identity, log_path, time.monotonic() + grace_s)
    deadline = time.monotonic() + _KILL_WAIT_S
    while members:
        for pid in members:
            _signal(pid, signal.SIGKILL)
        members = _wait_empty(identity, log_path, time.monotonic() + 0.2)
        if members and time.monotonic() > deadline:
            pids = ", ".join(str(pid) for pid in sorted(members))
            raise EndpointFailed(f"Process {pids} survived SIGKILL for {_KILL_WAIT_S:.0f} s; look at it with `ps`.")
    if identity is not None and not is_alive(identity):
        _children.pop((identity.pid, identity.start_ticks), None)


def _listens_on(connection: Any, port: int, host: str) -> bool:
    """True when the socket accepts connections to host:port (psutil's records; an empty address has no port)."""
    address = connection.laddr
    return bool(
        connection.status == psutil.CONN_LISTEN
        and address
        and address.port == port
        and (address.ip == host or address.ip in _WILDCARDS)
    )


def listening_pids(port: int, host: str = "127.0.0.1") -> frozenset[int | None]:
    """Pids of all programs that connections to host:port would reach; None for one that only its owner may see."""
    return frozenset(c.pid for c in psutil.net_connections(kind="tcp") if _listens_on(c, port, host))


def owns_port(identity: ProcessIdentity, port: int, host: str = "127.0.0.1", log_path: Path | None = None) -> bool:
    """True when a process of the spawned program listens on host:port."""
    for pid in session_members(identity, log_path):
        with contextlib.suppress(psutil.Error):
            for c in psutil.Process(pid).net_connections(kind="tcp"):
                if _listens_on(c, port, host):
                    return True
    return False


def someone_listens(port: int, host: str = "127.0.0.1") -> bool:
    """True when host:port accepts connections. Far cheaper than asking who it is."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def is_connected(port: int, host: str = "127.0.0.1") -> bool:
    """True while anybody, this program too, holds a connection to host:port. Reads one table of the kernel."""
    wanted = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
    for line in (PROC / "net/tcp").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=4)
        if fields[1] == wanted and fields[3] == _ESTABLISHED:
            return True
    return False


def who_listens(port: int, host: str = "127.0.0.1") -> str | None:
    """The program on host:port as a person would name it, e.g. `nginx (pid 812)`; None when nobody listens."""
    names = []
    for pid in sorted(listening_pids(port, host), key=lambda p: p or 0):
        try:
            names.append(f"{psutil.Process(pid).name()} (pid {pid})" if pid else "a program of another user")
        except psutil.Error:
            names.append(f"a program (pid {pid})")
    return ", ".join(names) or None


def _ephemeral_low() -> int:
    """The lowest port the kernel hands to outgoing connections; below it none is taken by accident."""
    try:
        return int((PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32768


def free_port(host: str, reserved: Collection[int] = ()) -> int:
    """A port on `host` that nobody uses now, that is not `reserved`, and that no outgoing connection will take.

    It is tested by binding without SO_REUSEADDR. What remains of the race (another program binds it before the engine
    does) is seen by the caller, who looks whose socket listens.

    Raises:
        PortTaken: two hundred ports in a row were taken.
    """
    low = 20000
    high = max(low + 1000, _ephemeral_low() - 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(200):
        port = random.randint(low, high)  # noqa: S311 - chance here only keeps two controllers apart
        if port in reserved:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise PortTaken(f"No free port between {low} and {high} on {host}; end some programs that listen there.")
