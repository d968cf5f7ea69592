"""Run a command and leave its exit code in a file: `python -I -S run_job.py RESULT_FILE COMMAND...`.

The controller that started a job may be killed before the job ends, and only a parent learns an exit code. This
program is that parent. It ignores SIGTERM, which is sent to the whole session: the command decides what to do with it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Exit code: the command's; 127 when it cannot be started."""
    result, command = Path(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: None)  # a handler is not inherited, an ignored signal would be
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        code = 127
    else:
        code = child.wait()
    draft = result.with_suffix(".tmp")
    draft.write_text(str(code))
    draft.replace(result)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())
