"""`python -m inspect_task REQUEST.json`: run one task. Exit code 0 when there is a result, 1 when not."""

import ctypes
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from .fence import raise_fence
from .running import run

KEY = "MODELOPS_ENDPOINT_KEY"
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Fence this process in, run the task, and leave a result, a failure too."""
    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent_pid"]:  # whoever asked has ended already
        return 1
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background hands on an ignored one
    folder = Path(order["result"]).parent
    key = os.environ.pop(KEY, "")
    # what Inspect and its libraries look for at home, they find here: nothing; and no `.env` up the folders is read
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder), "PATH": str(Path(sys.executable).parent)}
    os.environ["PYTHON_DOTENV_DISABLED"] = "1"
    os.chdir(Path(order["file"]).parent)  # Inspect looks for a file's tasks from here
    order["logs"] = str(folder / "logs")
    Path(order["logs"]).mkdir()

    def say(text: str, done: int, total: int) -> None:
        with Path(order["progress"]).open("a") as out:
            out.write(json.dumps({"text": text, "done": done, "total": total}) + "\n")

    try:
        readable = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent, Path(order["file"]).parent]
        fences = raise_fence(order["host"], order["port"], folder, readable, order["memory_bytes"])
        answer = {"ok": True, "fences": fences, **run(order, key, say)}
    except BaseException as error:
        traceback.print_exc()
        reason = "out_of_memory" if isinstance(error, MemoryError) else "task"
        answer = {"ok": False, "reason": reason, "detail": f"{type(error).__name__}: {error}"[:2000]}
    staged = Path(f"{order['result']}.tmp")
    staged.write_text(json.dumps(answer))
    staged.replace(order["result"])
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    # threads of libraries are not waited for: what there is has been written
    os._exit(main())
