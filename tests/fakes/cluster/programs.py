"""Pods that run to an end: their container's command is a process of this machine, whatever its image is.

What a pod mounts it finds where `claims` says the volume lies, by the paths in its command and variables; a container
sees no other path of this machine that it was not given.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from tests.fakes.cluster.store import Manifest

LINGER_S = 0.5  # between a deleted pod's end and its going, in which its log can still be read
Logs = dict[tuple[str, bool], str]  # (pod, previous container) -> lines of `<timestamp> <text>`


@dataclass
class Program:
    """The process of one pod."""

    process: subprocess.Popen[bytes]
    output: Path
    started_at: str
    begun: float
    told_to_end: float | None = None
    ended: float | None = None
    reason: str = ""

    def end(self, grace_s: float) -> bool:
        """SIGTERM, then SIGKILL after the grace period; True once it is gone."""
        now = time.monotonic()
        if self.process.poll() is not None:
            return True
        if self.told_to_end is None:
            self.told_to_end = now
            os.killpg(self.process.pid, signal.SIGTERM)
        elif now - self.told_to_end > grace_s:
            os.killpg(self.process.pid, signal.SIGKILL)
        return False


class Programs:
    """Runs the container of each such pod.

    Args:
        told: the status of a pod, by the state of its container; None where it is as it was.
    """

    def __init__(self, logs: Logs, told: Callable[..., Manifest | None]) -> None:
        self.claims: dict[str, Path] = {}
        self.environ: dict[str, str] = {}  # of every program, besides what its pod says
        self._logs, self._told = logs, told
        self._running: dict[str, Program] = {}
        self._stack = ExitStack()

    @cached_property
    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pods-")))

    def step(self, pod: Manifest) -> Manifest | None:
        """The status of a pod that is on a node; None where it is as it was."""
        uid = pod["metadata"]["uid"]
        if uid not in self._running:
            self._running[uid] = self._start(pod)
        program = self._running[uid]
        self._log(pod, program)
        deadline = pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None and time.monotonic() - program.begun > deadline:
            program.reason = "DeadlineExceeded"
            program.end(0)
        if program.process.poll() is None:
            running = {"running": {"startedAt": program.started_at}}
            return self._told(pod, running, ready=True, started=True, phase="Running")
        return self._over(pod, program)

    def _over(self, pod: Manifest, program: Program) -> Manifest:
        code = program.process.wait()
        self._log(pod, program)
        ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Completed" if code == 0 else "Error"}
        ended |= {"startedAt": program.started_at, "finishedAt": time_of_now()}
        phase = "Succeeded" if code == 0 else "Failed"
        told = self._told(pod, {"terminated": ended}, ready=False, phase=phase) or {}
        return told | ({"reason": program.reason} if program.reason else {})

    def end(self, pod: Manifest) -> tuple[bool, Manifest | None]:
        """Bring a deleted pod to its end: whether it may go, and else its status; None where that is as it was."""
        program = self._running.get(pod["metadata"]["uid"])
        if program is None:
            return True, None
        if not program.end(float(pod["spec"].get("terminationGracePeriodSeconds", 30))):
            return False, None
        if program.ended is None:
            program.ended = time.monotonic()
            return False, self._over(pod, program)
        return time.monotonic() - program.ended > LINGER_S, None

    def kill(self, pod: Manifest) -> None:
        """End what runs in it at once."""
        program = self._running.get(pod["metadata"]["uid"])
        if program is not None:
            program.end(0)

    def close(self) -> None:
        """End what runs, and leave nothing behind."""
        for program in self._running.values():
            if program.process.poll() is None:
                os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()
        self._stack.close()

    def _start(self, pod: Manifest) -> Program:
        container = pod["spec"]["containers"][0]
        argv = [self._here(pod, item) for item in (*container["command"], *(container.get("args") or []))]
        if argv[0] == "python":
            argv[0] = sys.executable
        environ = {e["name"]: self._here(pod, e.get("value", "")) for e in container.get("env") or []}
        output = self._folder / pod["metadata"]["uid"]
        scratch = self._folder / f"{pod['metadata']['uid']}.scratch"
        scratch.mkdir()
        where = container.get("workingDir")
        with output.open("wb") as out:
            process = subprocess.Popen(
                argv,
                env={"PATH": os.environ["PATH"], **self.environ, **environ},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self._here(pod, where) if where else scratch,
                start_new_session=True,
            )
        return Program(process, output, time_of_now(), time.monotonic())

    def _here(self, pod: Manifest, text: str) -> str:
        """`text` with the paths of mounted volumes as they are on this machine."""
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        mounts = sorted(pod["spec"]["containers"][0]["volumeMounts"], key=lambda m: -len(m["mountPath"]))
        for mount in mounts:
            claim = (volumes[mount["name"]].get("persistentVolumeClaim") or {}).get("claimName")
            if claim in self.claims and text.startswith(mount["mountPath"]):
                rest = text.removeprefix(mount["mountPath"])
                return f"{self.claims[claim] / mount.get('subPath', '')}{rest}"
        return text

    def _log(self, pod: Manifest, program: Program) -> None:
        lines = program.output.read_text(errors="replace").splitlines()
        self._logs[(pod["metadata"]["name"], False)] = "".join(f"{program.started_at} {line}\n" for line in lines)


def time_of_now() -> str:
    """As objects and logs write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
