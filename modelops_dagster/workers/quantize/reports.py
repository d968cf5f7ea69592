"""What goes in and out of the worker: a request, progress lines, one result. All of them are files."""

import contextlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# "(3/31): Calibrating" is how llm-compressor's progress bars are titled
_LAYER = re.compile(r"\((\d+)/(\d+)\): (\w+)")


class Failed(Exception):
    """The task cannot be done. `reason` is one of `domain.quantization.QuantizationFailure`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Reporter:
    """Tells how far the task is: one JSON line each in a file, and a log line of the Dagster step where there is one.

    Args:
        path: the file, appended to.
        pipes: an open `dagster_pipes` context, or None.
    """

    def __init__(self, path: Path, pipes: Any | None) -> None:
        self._path, self._pipes = path, pipes
        self._last = ""

    def say(self, text: str, done: int = 0, total: int = 0) -> None:
        """Report a stage; `done` of `total` steps of it, where it has steps."""
        line = f"{text} {done}/{total}" if total else text
        if line == self._last:
            return
        self._last = line
        with self._path.open("a") as out:
            out.write(json.dumps({"text": text, "done": done, "total": total}) + "\n")
        if self._pipes is not None:
            self._pipes.log.info(line)


class ProgressStream(io.TextIOBase):
    """A standard error that passes everything on and reads the progress bars in it."""

    def __init__(self, stream: io.TextIOBase, reporter: Reporter) -> None:
        self._stream, self._reporter = stream, reporter

    def write(self, text: str) -> int:
        for layer, layers, verb in _LAYER.findall(text):
            self._reporter.say(f"layer {layer} of {layers}: {verb.lower()}", int(layer), int(layers))
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def dagster_step() -> Iterator[Any | None]:
    """The Dagster step that waits for this process, when it was started by one, else None."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Leave the result whole or not at all."""
    staged = path.with_name(f"{path.name}.tmp")
    staged.write_text(json.dumps(result, allow_nan=True, indent=1))
    staged.replace(path)


def end_with_lease(path: Path, patience_s: float) -> None:
    """End this program when nobody has changed the file for so long: whoever would take the result is gone.

    It is for a worker on another machine than the program that waits for it, whose end it cannot see. Only changes
    count, never times, since two machines need not agree about those.
    """

    def watch() -> None:
        seen, since = "", time.monotonic()
        while time.monotonic() - since <= patience_s:
            time.sleep(min(1.0, patience_s / 4))
            with contextlib.suppress(OSError):  # it is being written, or the volume is away for a moment
                if (now := path.read_text()) != seen:
                    seen, since = now, time.monotonic()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_rss_bytes() -> int:
    """Most memory this program has had, in bytes. Not `ru_maxrss`, which begins with what the parent had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Stopwatch:
    """Wall and CPU seconds since it was made; the CPU's include all threads."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_s": round(time.monotonic() - self._wall, 3),
            "cpu_s": round(time.process_time() - self._cpu, 3),
        }
