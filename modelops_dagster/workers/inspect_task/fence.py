"""What a task may not do: reach anything but the endpoint, start a program, leave its folder.

Two fences. The audit hook sees what Python does and cannot be taken out again; native code passes it by. Landlock,
where the kernel has it (Linux 6.7 for the network), holds for the whole process, and nothing can lift it either.
"""

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

STARTS = frozenset(
    f"os.{name}" for name in ("system", "exec", "posix_spawn", "spawn", "fork", "forkpty", "startfile")
) | {"subprocess.Popen", "pty.spawn"}
LOOKUPS = frozenset(f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr"))
MOST_FILE_BYTES = 2**30

# linux/landlock.h
CREATE, ADD_RULE, RESTRICT = 444, 445, 446
ASK_VERSION = 1
BENEATH, PORT = 1, 2
FS_EXECUTE, FS_READ = 1 << 0, 1 << 2
# write, remove and make every kind of file; since version 2 link across folders, since 3 cut files
FS_WRITE = (1 << 1) | sum(1 << bit for bit in range(4, 13))
FS_WRITE_SINCE = {2: 1 << 13, 3: 1 << 14}
NET_BIND, NET_CONNECT, NET_SINCE = 1 << 0, 1 << 1, 4
SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS, SCOPE_SINCE = 0b11, 6
PR_SET_NO_NEW_PRIVS = 38


class RulesetAttr(ctypes.Structure):
    """`struct landlock_ruleset_attr`."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class BeneathAttr(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("folder", ctypes.c_int32))


class PortAttr(ctypes.Structure):
    """`struct landlock_net_port_attr`."""

    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def raise_fence(host: str, port: int, folder: Path, readable: Iterable[Path], memory_bytes: int) -> list[str]:
    """Close everything but `host`:`port` and `folder` to this process; returns which fences stand.

    Call it before any thread is started. `readable` are folders beside the system's own that may be read.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE_BYTES, MOST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    addresses = _addresses(host, port)
    stand = _landlock(port, folder, readable)
    sys.addaudithook(_hook(host, port, addresses))
    return ["audit hook", *stand]


def _addresses(host: str, port: int) -> set[str]:
    return {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}


def _hook(host: str, port: int, addresses: set[str]) -> Callable[[str, tuple[Any, ...]], None]:
    def may_connect(address: object) -> bool:
        if not isinstance(address, tuple) or len(address) < 2 or address[1] != port:
            return False  # sockets of the file system, such as Docker's, are named by text
        if address[0] not in (host, *addresses):
            addresses.update(_addresses(host, port))  # a name may have moved since
        return address[0] in (host, *addresses)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            raise PermissionError(f"a task may not start programs ({event})")
        if event in LOOKUPS:
            name = arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0]
            if name is not None and name not in (host, *addresses):
                raise PermissionError(f"a task may reach its endpoint only, not {name}")
        elif event in ("socket.connect", "socket.sendto") and not may_connect(arguments[1]):
            raise PermissionError(f"a task may reach its endpoint only, not {arguments[1]}")

    return hook


def _landlock(port: int, folder: Path, readable: Iterable[Path]) -> list[str]:
    """Restrict this thread and all it starts; returns what stands, nothing where the kernel has no Landlock."""
    if sys.platform != "linux":
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(ASK_VERSION))
    if version < 1:
        return []
    writes = FS_WRITE | sum(bit for since, bit in FS_WRITE_SINCE.items() if version >= since)
    has_net, has_scope = version >= NET_SINCE, version >= SCOPE_SINCE
    handled = RulesetAttr(
        writes | FS_READ | FS_EXECUTE,
        NET_BIND | NET_CONNECT if has_net else 0,
        SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if has_scope else 0,
    )
    size = 8 * (1 + has_net + has_scope)
    ruleset = libc.syscall(CREATE, ctypes.byref(handled), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return []

    def rule(kind: int, attr: ctypes.Structure) -> None:
        if libc.syscall(ADD_RULE, ruleset, kind, ctypes.byref(attr), ctypes.c_uint32(0)):
            raise OSError(ctypes.get_errno(), "a Landlock rule was refused")

    may = {folder: writes | FS_READ, Path("/dev/null"): (1 << 1) | FS_READ}
    for path in (*map(Path, ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev/urandom")), *readable):
        may.setdefault(path, FS_READ)
    for path, access in may.items():
        if path.exists():
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            # what only folders have is refused for a file
            rule(BENEATH, BeneathAttr(access if path.is_dir() else access & ((1 << 1) | FS_READ), opened))
            os.close(opened)
    if has_net:
        rule(PORT, PortAttr(NET_CONNECT, port))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(RESTRICT, ruleset, ctypes.c_uint32(0)):
        raise OSError(ctypes.get_errno(), "Landlock refused to restrict this process")
    os.close(ruleset)
    return [f"landlock {version}"]
