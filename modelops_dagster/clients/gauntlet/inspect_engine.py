"""An Inspect task run by Inspect itself: in the environment of the engine `inspect`, in a process within limits."""

import ast
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.scores.importing import Found, read_log
from modelops_dagster.clients.worker_tasks import TaskEnd, TaskLimits, TaskRunner
from modelops_dagster.domain.errors import EngineMissing, EvaluationFailed, InvalidSpec, UserError
from modelops_dagster.domain.values import Value

ENGINE = "inspect"
KEY = "MODELOPS_ENDPOINT_KEY"
ENDING_S = 30.0
"""What the worker is given, after its budget, to score and write what is whole."""
LOG_BUFFER = 100_000
"""Samples that Inspect keeps before it writes: as JSON it writes the whole log anew each time."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class InspectOrder(Value):
    """Which task is put to which endpoint, and how far it may go."""

    file: Path
    task: str | None = Field(default=None, description="one of the file's tasks; None: all")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of the task")
    url: str = Field(description="base URL that ends in /v1")
    model: str = Field(description="the name the endpoint answers to")
    seconds: float = Field(gt=0, description="for everything; what is whole by then is scored and kept")
    memory_bytes: int = Field(default=2 * 2**30, description="of the process")
    tokens: int = Field(default=2_000_000, description="in and out, of all samples; then no request is begun any more")
    samples: int | None = Field(default=None, description="at most; None: all")
    concurrency: int = Field(default=8, description="requests at once")
    retries: int = Field(default=2, description="of one request")
    attempt_timeout_s: float = 60
    give_up_after: int = Field(default=10, description="samples in a row that fail: the endpoint is not there")

    @property
    def code(self) -> str:
        """Digest of the task's file."""
        return "sha256:" + hashlib.sha256(self.file.read_bytes()).hexdigest()

    def request(self) -> dict[str, Any]:
        """What the worker is told; no key is in it."""
        where = urlsplit(self.url)
        given = {"seconds", "memory_bytes", "tokens", "samples", "concurrency", "retries", "give_up_after", "model"}
        return self.model_dump(include=given) | {
            "url": self.url,
            "host": where.hostname,
            "port": where.port or (443 if where.scheme == "https" else 80),
            "file": str(self.file),
            "task": f"{self.file.name}@{self.task}" if self.task else self.file.name,
            "arguments": self.arguments,
            # so that a request which hangs leaves time for others within the budget
            "attempt_timeout_s": min(self.attempt_timeout_s, self.seconds / 4),
            "sample_seconds": self.seconds,
            "log_buffer": LOG_BUFFER,
        }


def named_task(text: str) -> tuple[Path, str | None]:
    """FILE or FILE@TASK, of a Python file that is there. It is parsed, not run.

    Raises:
        InvalidSpec: it is none.
    """
    path, at, name = text.rpartition("@")
    if not at or not _NAME.fullmatch(name):
        path, name = text, ""
    file = Path(path).absolute()
    if file.suffix != ".py" or not file.is_file():
        raise InvalidSpec(
            f"{path} is no Python file: give FILE.py, or FILE.py@TASK for one of its tasks.", field="inspect"
        )
    try:
        ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else path
        raise InvalidSpec(f"{where} cannot be read as Python ({error.args[0]}): correct it.", field="inspect") from None
    return file, name or None


class InspectRun(NamedTuple):
    """What a run left: a task per log, where the logs are, and why a task is not whole, by its name."""

    found: tuple[Found, ...]
    logs: tuple[Path, ...]
    fences: tuple[str, ...]
    tokens: int
    ended_early: dict[str, str]


@dataclass(frozen=True)
class InspectEngine:
    """Runs orders; the logs they leave stay under `work`."""

    registry: EngineRegistry
    work: Path

    def require(self) -> None:
        """See that it is installed.

        Raises:
            EngineMissing: it is not.
        """
        if self.registry.environment(ENGINE) is None:
            raise EngineMissing(f"Engine {ENGINE} is not installed; run `modelops engines install {ENGINE}`.")

    def run(self, order: InspectOrder, api_key: str | None, say: Callable[[str], None]) -> InspectRun:
        """Run the task to its end, or to a limit; read back what it scored.

        Raises:
            EngineMissing: the engine is not installed.
            UserError: the file does not load, or has no such task.
            EvaluationFailed: the process was ended, or left nothing to read.
        """
        self.require()
        limits = TaskLimits(order.seconds + ENDING_S, order.memory_bytes)
        environ = {KEY: api_key} if api_key else {}
        runner = TaskRunner(self.registry, ENGINE, self.work, limits, environ)
        code = order.code
        end = runner.run(order.request(), say)
        if end.result is None:
            raise _failure(order, end)
        logs = tuple(end.folder / "logs" / name for name in end.result["logs"])
        if not logs:
            raise EvaluationFailed(f"{order.file.name} left no log; what it said is in {end.log}.")
        found, early = [], {}
        for log in logs:
            task, why = read_log(log, code)
            found.append(Found(task))
            if why or end.result["ended_early"]:
                early[task.suite] = end.result["ended_early"] or why
        return InspectRun(tuple(found), logs, tuple(end.result["fences"]), int(end.result["tokens"]), early)


def _failure(order: InspectOrder, end: TaskEnd) -> UserError | EvaluationFailed:
    """A task that does not load is the user's to mend; what a limit ended is a failed evaluation."""
    kind = UserError if end.reason == "task" else EvaluationFailed
    return kind(f"{order.file.name} could not be run by Inspect ({end.why}); the whole log is {end.log}.")
