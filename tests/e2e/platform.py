"""A whole platform in a temporary home, started the way a person starts it: `modelops up`."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from modelops_dagster.clients.dagster_api import ENDED, DagsterClient, RunState
from modelops_dagster.settings import Settings

MODELOPS = (sys.executable, "-m", "modelops_dagster.cli")
START_TIMEOUT_S = 240


class Platform:
    """One running `modelops up` and the commands a person would type beside it."""

    def __init__(self, home: Path, environ: Mapping[str, str], arguments: tuple[str, ...]) -> None:
        self.home = home
        self.environ = {**os.environ, "PYTHONUNBUFFERED": "1", **environ, "MODELOPS_HOME": str(home)}
        for port in ("DAGSTER", "GATEWAY", "CONTROLLER"):
            self.environ.setdefault(f"MODELOPS_{port}_PORT", "0")
        self.environ.setdefault("MODELOPS_FRAMEWORKS", ",")  # no release of the world outside interferes
        self.arguments = arguments
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return when `modelops up` says ready."""
        self.lines = []
        self.process = subprocess.Popen(
            (*MODELOPS, "up", *self.arguments),
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while "ready" not in self.lines:
            assert self.process.poll() is None, "modelops up ended:\n" + "\n".join(self.lines[-60:])
            assert time.monotonic() < deadline, "modelops up is not ready:\n" + "\n".join(self.lines[-60:])
            time.sleep(0.2)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip("\n"))

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=90)

    @property
    def settings(self) -> Settings:
        """What the running platform wrote about itself."""
        plain = {k: v for k, v in self.environ.items() if not k.endswith("_PORT")}
        return Settings.load(plain)

    @property
    def dagster(self) -> DagsterClient:
        return DagsterClient(self.settings.dagster_url)

    def modelops(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command as a person would, in the platform's home."""
        environ = {k: v for k, v in self.environ.items() if not k.endswith("_PORT")}
        return subprocess.run(
            (*MODELOPS, *arguments), env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def wait_for_run(self, repo_id: str, *, known: frozenset[str] = frozenset(), timeout_s: float = 240) -> RunState:
        """The newest run of the model that is not `known`, once it (or the retry of it) has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            runs = [r for r in self.dagster.runs(repo_id) if r.run_id not in known]
            if runs:
                return self.dagster.follow(runs[0].run_id, lambda event: None, timeout_s=timeout_s)
            time.sleep(0.5)
        ticks: list[dict[str, Any]] = self.dagster.last_ticks("hub_releases")
        raise AssertionError(f"no run for {repo_id}; ticks: {ticks}\n" + "\n".join(self.lines[-60:]))

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """What Dagster's GraphQL answers, as its pages ask it."""
        url = f"{self.settings.dagster_url}/graphql"
        answer = httpx.post(url, json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer
        return dict(answer["data"])

    def pids(self, run_id: str) -> list[int]:
        """The processes that Dagster noted of a run, oldest first."""
        events, _ = self.dagster.events(run_id)
        return [int(found[1]) for event in events if (found := re.search(r"\(pid: (\d+)\)", event.message))]

    def is_ended(self, run_id: str) -> bool:
        state = self.dagster.run(run_id)
        return state is not None and state.status in ENDED


@contextmanager
def running_platform(home: Path, environ: Mapping[str, str], *arguments: str) -> Iterator[Platform]:
    """A platform for the block, stopped and checked for orphans after it."""
    platform = Platform(home, environ, arguments)
    platform.start()
    try:
        yield platform
    finally:
        platform.stop()
    assert not left_behind(home), f"processes left behind: {left_behind(home)}"


@contextmanager
def platform_without_models(place: Path, environ: Mapping[str, str]) -> Iterator[Platform]:
    """`running_platform` in `<place>/home`, over a Hub of its own that has nothing."""
    (place / "hub").mkdir()
    with running_platform(place / "home", environ, "--hub-dir", str(place / "hub")) as platform:
        yield platform


def left_behind(home: Path) -> list[str]:
    """Command lines of processes that still carry this home in their environment."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ", "status"]):
        ours = (process.info["environ"] or {}).get("MODELOPS_HOME") == str(home)
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:120]}")
    return found
