"""The process above the workers: it forks them, takes note when one dies or hangs, and stops them all.

It runs no thread and no event loop, so that a fork is safe at any time, and answers no call itself.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from modelops_dagster.domain.errors import NotRunning

POLL_S = 0.2
FIRST_START_S = 180.0
QUICK_DEATH_S = 5.0
LONGEST_BACKOFF_S = 10.0
HUNG_S = 30.0


@dataclass
class Child:
    """One process to be kept alive. `main` gets a function to call when it is ready, and returns an exit code.

    `beats` differs from look to look while the process is not hanging, and is 0 until that can be told.
    """

    name: str
    main: Callable[[Callable[[], None]], int]
    before: Callable[[], None] = lambda: None
    beats: Callable[[], int] = lambda: 0
    pid: int = 0
    started_s: float = 0.0
    quick_deaths: int = 0
    start_at_s: float = 0.0
    ready: bool = False
    last_beats: int = 0
    hung_looks: int = 0
    pipe: int = field(default=-1, repr=False)


class Supervisor:
    """Keeps children alive until a signal ends it. They get `grace_s` between SIGTERM and SIGKILL."""

    def __init__(self, children: Mapping[str, Child], say: Callable[[str], None], *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._children = list(children.values())
        self._say = say
        self._stopping = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start every child, call `on_ready` when all are ready, and return after a signal, when none is left.

        Raises:
            NotRunning: a child ended, or was not ready in time, before all were ready for the first time.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        for child in self._children:
            self._start(child)
        try:
            self._wait_ready()
            if not self._stopping:
                on_ready()
            while not self._stopping:
                self._reap(restart=True)
                self._end_hung()
                time.sleep(POLL_S)
        finally:
            self._stop_all()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + FIRST_START_S
        while not self._stopping and not all(c.ready for c in self._children):
            pipes = [c.pipe for c in self._children if not c.ready and c.pipe >= 0]
            readable, _, _ = select.select(pipes, [], [], POLL_S)
            for child in self._children:
                if child.pipe in readable:
                    child.ready = os.read(child.pipe, 1) == b"+"
                    os.close(child.pipe)
                    child.pipe = -1
            self._reap(restart=False)
            if not self._stopping and any(not c.pid for c in self._children):
                raise NotRunning("LiteLLM did not start, so nothing is served; the lines above say why.")
            if time.monotonic() > deadline:
                raise NotRunning(f"the gateway was not ready within {FIRST_START_S:g} s; start it again.")

    def _start(self, child: Child) -> None:
        child.before()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            code = 70
            try:
                code = child.main(lambda: _tell(writer))
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException as error:
                self._say(f"{child.name} failed: {type(error).__name__}: {error}")
            finally:
                os._exit(code)  # not through the parent's clean-up, of which this is a copy
        os.close(writer)
        if child.pipe >= 0:
            os.close(child.pipe)
        child.pid, child.pipe, child.started_s = pid, reader, time.monotonic()

    def _reap(self, *, restart: bool) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                quick = now - child.started_s < QUICK_DEATH_S
                child.quick_deaths = child.quick_deaths + 1 if quick else 0
                wait_s = min(LONGEST_BACKOFF_S, 2.0**child.quick_deaths - 1) if quick else 0.0
                child.pid, child.start_at_s = 0, now + wait_s
                if restart:
                    self._say(f"gateway: {child.name} ended and is started again")
            if restart and not child.pid and now >= child.start_at_s:
                self._start(child)

    def _end_hung(self) -> None:
        """What is counted is looks and not time: a machine that stood still as a whole hangs nobody."""
        for child in self._children:
            beats = child.beats()
            child.hung_looks = child.hung_looks + 1 if child.pid and beats and beats == child.last_beats else 0
            child.last_beats = beats
            if child.hung_looks * POLL_S >= HUNG_S:
                self._say(f"gateway: {child.name} hangs and is killed")
                os.kill(child.pid, signal.SIGKILL)
                child.hung_looks = 0

    def _stop_all(self) -> None:
        running = [c for c in self._children if c.pid]
        for child in running:
            os.kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._grace_s
        while running:
            running = [c for c in running if not os.waitpid(c.pid, os.WNOHANG)[0]]
            if running and time.monotonic() > deadline:
                for child in running:
                    os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.05)


def _tell(writer: int) -> None:
    os.write(writer, b"+")
    os.close(writer)
