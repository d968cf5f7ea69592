"""One task of an engine that does not serve: a process of its own, watched within limits, and what it left.

What goes in and out are files in one folder: `request.json`, lines of progress, one result that appears whole or not
at all, and a log. No process is left, however the task ends.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from modelops_dagster.clients import processes
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.machine import out_of_memory_kills
from modelops_dagster.domain.quantization import gib

POLL_S = 0.25
GRACE_S = 2.0
LAST_LINES = 15
SIGKILLED = -9
Say = Callable[[str], None]


@dataclass(frozen=True)
class TaskFolder:
    """What goes in and out of one task."""

    path: Path

    @classmethod
    def new(cls, work: Path) -> "TaskFolder":
        """An empty one under `work`."""
        work.mkdir(parents=True, exist_ok=True)
        return cls(Path(tempfile.mkdtemp(prefix="task-", dir=work)))

    @property
    def progress(self) -> Path:
        return self.path / "progress.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def write(self, request: Mapping[str, Any], **more: object) -> Path:
        """Write the request, and return its file."""
        files = {"progress": str(self.progress), "result": str(self._result)}
        path = self.path / "request.json"
        path.write_text(json.dumps({**request, **files, **more}, indent=1))
        return path

    def answer(self) -> dict[str, Any] | None:
        """The result, `ok` or not; None: there is none."""
        return dict(json.loads(self._result.read_text())) if self._result.is_file() else None

    @property
    def _result(self) -> Path:
        return self.path / "result.json"


@dataclass(frozen=True)
class TaskLimits:
    """When a task is ended."""

    seconds: float
    memory_bytes: int | None = None
    """Resident memory of all its processes together; None for no limit of ours."""


class TaskEnd(NamedTuple):
    """How a task ended: its result, or a reason with a sentence that lacks its full stop."""

    folder: Path
    result: dict[str, Any] | None
    reason: str = ""
    why: str = ""

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class TaskRunner:
    """Runs tasks in the environment of `engine`, each in a new folder under `work`."""

    registry: EngineRegistry
    engine: str
    work: Path
    limits: TaskLimits
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables for the worker besides those of its engine."""

    def run(self, request: Mapping[str, Any], say: Say) -> TaskEnd:
        """Run one task to its end, or to a limit.

        Raises:
            EngineMissing: the engine is unknown or not installed.
        """
        folder = TaskFolder.new(self.work)
        launch = self.registry.program(self.engine, str(folder.write(request, parent_pid=os.getpid())))
        kills = out_of_memory_kills()
        worker = processes.spawn(launch.argv, {**launch.environ, **self.environ}, folder.log, folder.path)
        watch = _Watch(self.limits)
        try:
            code = watch.wait(worker, folder.log, _new_lines(folder.progress), say)
        finally:
            processes.stop_group(worker, GRACE_S, folder.log)
        answer = folder.answer()
        if answer is not None and answer["ok"] and watch.ended is None:
            return TaskEnd(folder.path, answer)
        return TaskEnd(folder.path, None, *watch.why(code, answer, out_of_memory_kills() - kills))


class _Watch:
    """Waits for the worker, within its limits. `ended` says which of them was reached."""

    def __init__(self, limits: TaskLimits) -> None:
        self._limits, self._deadline = limits, time.monotonic() + limits.seconds
        self._peak = 0
        self.ended: str | None = None

    def wait(self, worker: processes.ProcessIdentity, log: Path, lines: Iterator[list[str]], say: Say) -> int | None:
        """Return the exit code, None when we ended it; pass its progress on."""
        limit = self._limits.memory_bytes
        while True:
            code = processes.exit_code(worker)
            for line in next(lines):
                say(line)
            if code is not None:
                return code
            self._peak = max(self._peak, _resident(processes.session_members(worker)))
            if limit is not None and self._peak > limit:
                self.ended = "out_of_memory"
            elif time.monotonic() > self._deadline:
                self.ended = "timeout"
            if self.ended is not None:
                processes.stop_group(worker, 0.0, log)
                return None
            time.sleep(POLL_S)

    def why(self, code: int | None, answer: dict[str, Any] | None, kernel_kills: int) -> tuple[str, str]:
        """The classified reason, and a sentence without its full stop."""
        if self.ended == "out_of_memory":
            limit = gib(self._limits.memory_bytes or 0)
            return "out_of_memory", f"killed for memory at {gib(self._peak)}, above the limit of {limit}"
        if self.ended == "timeout":
            return "timeout", f"not done after {self._limits.seconds:.0f} s, and ended"
        if answer is not None and not answer["ok"]:
            detail = refusal(answer)
            if answer["reason"] == "out_of_memory":
                detail = f"out of memory at {gib(self._peak)} ({detail})"
            return str(answer["reason"]), detail
        if code == SIGKILLED:
            by = "by the kernel" if kernel_kills > 0 else "by the kernel, or by somebody,"
            return "out_of_memory", f"killed for memory at {gib(self._peak)} {by} with SIGKILL"
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return "crash", f"the worker ended with {how} and no result"


def refusal(answer: Mapping[str, Any]) -> str:
    """What a worker said that could not do its task, without its full stop."""
    return " ".join(str(answer["detail"]).split()).rstrip(".")[:600]


def _resident(pids: frozenset[int]) -> int:
    """Resident memory of these processes together, in bytes; what has ended counts as none."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total


def _new_lines(path: Path) -> Iterator[list[str]]:
    """For each `next`, the progress lines that were written since the last one."""
    offset = 0
    while True:
        text = path.read_bytes()[offset:] if path.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        offset += len(whole)
        found = [json.loads(line) for line in whole.splitlines()]
        yield [f"{f['text']} {f['done']}/{f['total']}" if f["total"] else str(f["text"]) for f in found]
