"""`python -m quantize REQUEST.json`: one task, one result file. Exit code 0 when there is a result, 1 when not."""

import argparse
import ctypes
import errno
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from .reports import (
    Failed,
    ProgressStream,
    Reporter,
    Stopwatch,
    dagster_step,
    end_with_lease,
    peak_rss_bytes,
    write_result,
)

PR_SET_PDEATHSIG = 1
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


def main() -> int:
    """Do the task of the request and write its result, a failure too."""
    parser = argparse.ArgumentParser(prog="quantize", description="Quantize a checkpoint, or compare two.")
    parser.add_argument("request", type=Path, help="JSON file, as clients/quantization.py writes it")
    request: dict[str, Any] = json.loads(parser.parse_args().request.read_text())
    if "lease" in request:
        end_with_lease(Path(request["lease"]), request["lease_s"])
    else:
        _die_with_parent(request["parent_pid"])
    watch = Stopwatch()
    with dagster_step() as pipes:
        reporter = Reporter(Path(request["progress"]), pipes)
        sys.stderr = ProgressStream(sys.stderr, reporter)  # type: ignore[arg-type]
        try:
            result = _task(request, reporter)
        except Failed as error:
            failure: dict[str, Any] = {"ok": False, "reason": error.reason, "detail": str(error)}
        except BaseException as error:
            traceback.print_exc()
            failure = {"ok": False, "reason": _reason(error), "detail": f"{type(error).__name__}: {error}"[:2000]}
        else:
            spent = {**watch.read(), "peak_rss_bytes": peak_rss_bytes()}
            write_result(Path(request["result"]), {"ok": True, **result, **spent})
            return 0
        write_result(Path(request["result"]), failure)
        return 1


def _task(request: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    reporter.say("importing torch and transformers")
    if request["task"] == "quantize":
        from .making import make

        return make(request, reporter)
    from .comparing import compare

    return compare(request, reporter)


def _die_with_parent(parent_pid: int) -> None:
    """End when the program that asked for this does, whichever way it ends: nobody would take the result."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    return "crash"


if __name__ == "__main__":
    sys.exit(main())
