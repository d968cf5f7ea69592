"""Call a function from code nobody trusts: `python -I -S run_code.py`, an order on stdin, what came back on stdout.

The order is JSON: `code`, `entry` (the function's name), `calls` (a list of argument lists), `seconds`, `memory_mb`.
The answer is `{"results": [{"value": ...} | {"error": "TypeError: ..."}]}`, or `{"refused": why}` where this machine
cannot isolate a process; then nothing was run. What the calls should return is not in the order, so the code cannot
know it.

Before the code is compiled the process gives up everything it does not need to compute: time, memory, files and
processes by resource limits, and by a seccomp filter every system call but those that allocate memory, look at the
clock, and read and write what is already open. No file can be opened, no socket made, no program started.
"""

import ctypes
import json
import platform
import resource
import sys
from typing import Any

MODULES = (
    "bisect collections copy datetime decimal enum fractions functools heapq itertools json math operator random re "
    "statistics string textwrap typing dataclasses calendar abc types unicodedata cmath numbers contextlib"
)
LONGEST_ERROR = 200
MOST_OUTPUT = 200_000

# read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn sched_yield mremap
# madvise nanosleep getpid exit gettimeofday getrusage sigaltstack gettid futex restart_syscall clock_gettime
# clock_nanosleep exit_group getrandom rseq
ALLOWED = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96, 98, 131, 186, 202, 219, 228, 230, 231,
         318, 334),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 124, 216, 233, 101, 172, 93, 169, 165, 132, 178, 98,
         128, 113, 115, 94, 278, 293),
    ),
}  # fmt: skip
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050001, 0x80000000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


class Instruction(ctypes.Structure):
    """`struct sock_filter` of linux/filter.h."""

    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def give_up_system_calls() -> str | None:
    """Install the filter; returns why it cannot be, or None. There is no way back."""
    known = ALLOWED.get(platform.machine())
    if sys.platform != "linux" or known is None:
        return f"system calls cannot be filtered on {sys.platform} {platform.machine()}"
    architecture, numbers = known
    program = [
        (LOAD, 0, 0, 4),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        *((JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (RETURN, 0, 0, DENY),
        (RETURN, 0, 0, ALLOW),
    ]
    instructions = (Instruction * len(program))(*(Instruction(*line) for line in program))
    libc = ctypes.CDLL(None, use_errno=True)
    filters = Program(len(program), instructions)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return f"no_new_privs was refused with errno {ctypes.get_errno()}"
    if libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filters), 0, 0):
        return f"a seccomp filter was refused with errno {ctypes.get_errno()}"
    return None


def limit(seconds: float, memory_mb: int) -> None:
    """Resource limits: processor seconds, address space, no file to write, no core, no process."""
    whole = max(1, int(seconds + 0.999))
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    size = memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    for name in ("RLIMIT_FSIZE", "RLIMIT_CORE"):
        resource.setrlimit(getattr(resource, name), (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def jsonable(value: object) -> object:
    """Tuples as lists and sets as sorted lists; whatever else JSON does not know is an error."""
    if isinstance(value, (tuple, list)):
        return [jsonable(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(v) for v in value), key=repr)
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"returned a {type(value).__name__}")


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    for name in MODULES.split():  # afterwards no file can be opened, so what may be imported is imported now
        __import__(name)
    limit(order["seconds"], order["memory_mb"])
    write, dumps = sys.stdout.buffer, json.dumps
    refused = give_up_system_calls()
    if refused:
        write.write(dumps({"refused": refused}).encode())
        return
    results: list[dict[str, object]] = []
    space: dict[str, Any] = {"__name__": "answer"}
    sys.setrecursionlimit(2000)
    try:
        sys.stdout = sys.stderr = None
        exec(compile(order["code"], "answer", "exec"), space)  # noqa: S102 - what this process exists for
        function = space[order["entry"]]
    except BaseException as error:
        results = [{"error": said(error)}] * len(order["calls"])
    else:
        for arguments in order["calls"]:
            try:
                results.append({"value": jsonable(function(*arguments))})
            except BaseException as error:
                results.append({"error": said(error)})
    text = dumps({"results": results})
    if len(text) > MOST_OUTPUT:
        text = dumps({"results": [{"error": "ValueError: the results are too long"}] * len(results)})
    write.write(text.encode())
    write.flush()


if __name__ == "__main__":
    main()
