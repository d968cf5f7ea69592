"""Starts the programs of one machine, keeps their logs together, and stops them all.

hub (only when embedded) · controller · gateway · code server · Dagster webserver and daemon. Each runs in a session of
its own; what a killed `modelops up` left behind is stopped by the next one.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import httpx

from modelops_dagster.clients.dagster_api import LOCATION, DagsterClient
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.policies import load_policy
from modelops_dagster.clients.processes import (
    ProcessIdentity,
    free_port,
    identify,
    is_alive,
    session_members,
    someone_listens,
    stop_group,
    who_listens,
)
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.errors import ModelOpsError, NotRunning, PortTaken, UserError
from modelops_dagster.settings import Settings, data_folder

READY_TIMEOUT_S = 240
# Lines the daemon writes every few seconds when nothing happens; they are in its log file, not on the terminal.
CHATTER = re.compile(r"AssetDaemon - INFO|Checking for new runs for sensor|: No new commit|ignoring older events")
PORTS = {"dagster_port": "the Dagster UI", "gateway_port": "the gateway", "controller_port": "the controller"}


class Program(NamedTuple):
    """One program of the stack. `problem` returns None when it is ready, else what it is waiting for."""

    name: str
    argv: tuple[str, ...]
    problem: Callable[[], str | None]
    after: tuple[str, ...] = ()
    grace_s: float = 15


class Running(NamedTuple):
    program: Program
    process: subprocess.Popen[bytes]
    identity: ProcessIdentity
    pump: threading.Thread


def _ports(settings: Settings) -> set[int]:
    """Those that programs of the stack will listen on, though none does yet."""
    return {getattr(settings, field) for field in PORTS}


def resolve_ports(settings: Settings) -> Settings:
    """Pick a free port where the setting is 0, and refuse one that somebody else holds.

    Raises:
        PortTaken: names the port, who listens there, and the variable to change.
    """
    chosen: dict[str, int] = {}
    for field, what in PORTS.items():
        port = getattr(settings, field)
        if port == 0:
            chosen[field] = free_port(settings.host, _ports(settings.model_copy(update=chosen)))
            continue
        holder = who_listens(port, settings.host)
        if holder:
            raise PortTaken(
                f"port {port} for {what} is already in use by {holder}: stop it, or set MODELOPS_{field.upper()} "
                "to another port (0 picks a free one)."
            )
    return settings.model_copy(update=chosen)


class Stack:
    """The programs of one installation. Use as a context manager; leaving it stops everything it started."""

    def __init__(
        self,
        settings: Settings,
        *,
        echo: Callable[[str, str], None],
        hub_root: Path | None = None,
    ) -> None:
        """
        Args:
            settings: what to start, and where.
            echo: called with (program, line) for every line any program prints.
            hub_root: folder to serve as an embedded Hub; None when the Hub is elsewhere.

        Raises:
            UserError: the home cannot be written, or another platform runs from it.
            InvalidSpec: there is no such policy, or it does not hold.
            PortTaken: somebody else listens on one of its ports.
        """
        self._echo = echo
        self._hub_root = hub_root and hub_root.resolve()  # the programs run in the home
        self._running: list[Running] = []
        self._stopping = False
        load_policy(settings.eval_datasets / "policies", settings.policy)  # else told by the first run, at its end
        self._claim = _claim(settings.home)
        try:
            self._stop_leftovers(settings)
            self.settings = resolve_ports(settings)
        except BaseException:
            self._claim.close()
            raise
        self._code_port = free_port(settings.host, _ports(self.settings))
        if hub_root is not None:
            port = free_port(settings.host, {*_ports(self.settings), self._code_port})
            self.settings = self.settings.model_copy(update={"hub_url": f"http://{settings.host}:{port}"})

    @property
    def _record(self) -> Path:
        return self.settings.home / "run" / "stack.json"

    def _stop_leftovers(self, settings: Settings) -> None:
        record = settings.home / "run" / "stack.json"
        if not record.is_file():
            return
        for name, identity in json.loads(record.read_text())["programs"].items():
            left = ProcessIdentity(**identity)
            if session_members(left):  # the first of them may be gone, and a run of Dagster's still there
                self._echo("up", f"stopping {name}, left behind by a run that was killed")
                stop_group(left, grace_s=10)
        record.unlink()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- starting ---------------------------------------------------------------------------------------------------

    def start(self, on_wait: Callable[[str], None]) -> None:
        """Start everything and return when all of it is ready.

        Raises:
            NotRunning: a program ended, or was not ready in time; the sentence names its log.
        """
        self.prepare_home()
        pending = self.programs()
        deadline = time.monotonic() + READY_TIMEOUT_S
        ready: set[str] = set()
        waiting: dict[str, str] = {}
        while pending or waiting:
            for program in [p for p in pending if set(p.after) <= ready]:
                self._spawn(program)
                pending.remove(program)
                waiting[program.name] = "starting"
            for item in self._running:
                if item.program.name in waiting:
                    self._require_alive(item)
                    problem = item.program.problem()
                    if problem is None:
                        ready.add(item.program.name)
                        del waiting[item.program.name]
                    else:
                        waiting[item.program.name] = problem
            if time.monotonic() > deadline:
                name, problem = next(iter(waiting.items()))
                raise NotRunning(
                    f"{name} was not ready within {READY_TIMEOUT_S} s ({problem}): read {self._log_path(name)}."
                )
            if waiting or pending:
                on_wait("starting: " + ", ".join([*waiting, *(p.name for p in pending)]))
            time.sleep(0.25)

    def prepare_home(self) -> None:
        """Make the folders of the home, and Dagster's own settings where there are none yet."""
        home = self.settings.home
        for folder in ("run", "logs", "dagster", "secrets"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "secrets").chmod(0o700)
        instance = home / "dagster" / "dagster.yaml"
        if not instance.exists():
            shutil.copyfile(data_folder("deploy") / "dagster.yaml", instance)
        (home / "dagster" / "workspace.yaml").write_text(
            "# written by `modelops up`; the code server is one of its programs\n"
            f"load_from:\n  - grpc_server: {{host: {self.settings.host}, port: {self._code_port}, "
            f"location_name: {LOCATION}}}\n"
        )

    def programs(self) -> list[Program]:
        """What `start` starts."""
        s, python = self.settings, sys.executable
        host, workspace = s.host, str(s.home / "dagster" / "workspace.yaml")
        dagster = DagsterClient(s.dagster_url, timeout_s=10)

        def dagster_problem() -> str | None:
            try:
                return dagster.problem()
            except ModelOpsError:
                return "the UI does not answer yet"

        programs = [
            Program(
                "controller",
                (python, "-m", "modelops_dagster.services.controller"),
                self._controller_problem,
                grace_s=40,
            ),
            Program("gateway", (python, "-m", "modelops_dagster.services.gateway"), self._gateway_problem),
            Program(
                "code",
                (
                    *(python, "-m", "dagster", "api", "grpc", "--module-name", "modelops_dagster.definitions"),
                    *("--host", host, "--port", str(self._code_port), "--location-name", LOCATION),
                ),
                lambda: None if someone_listens(self._code_port, host) else "loading the definitions",
            ),
            Program(
                "daemon",
                (python, "-m", "modelops_dagster.sensors.daemon", "run", "-w", workspace),
                lambda: None,
                after=("code",),
            ),
            Program(
                "dagster",
                (python, "-m", "dagster_webserver", "-w", workspace, "-h", host, "-p", str(s.dagster_port)),
                dagster_problem,
                after=("code",),
            ),
        ]
        if self._hub_root is not None:
            port = s.hub_url.rsplit(":", 1)[1]
            serve = (python, "-m", "modelops_dagster.cli", "hub", "serve", str(self._hub_root))
            programs.insert(
                0,
                Program(
                    "hub", (*serve, "--host", host, "--port", port), lambda: _not_answering(f"{s.hub_url}/api/models")
                ),
            )
        return programs

    def _controller_problem(self) -> str | None:
        return _not_answering(f"{self.settings.controller_url}/health", "modelops-controller")

    def _gateway_problem(self) -> str | None:
        gateway = GatewayClient(self.settings.gateway_url, home=self.settings.home)
        return None if gateway.running() else "loading LiteLLM"

    def _environ(self) -> dict[str, str]:
        home = str(self.settings.home / "dagster")
        return {**os.environ, **self.settings.environ(), "DAGSTER_HOME": home, "PYTHONUNBUFFERED": "1"}

    def _log_path(self, name: str) -> Path:
        return self.settings.home / "logs" / f"{name}.log"

    def _spawn(self, program: Program) -> None:
        process = subprocess.Popen(
            program.argv,
            env=self._environ(),
            cwd=self.settings.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - opened as a pipe one statement above
        pump = threading.Thread(target=self._pump, args=(program.name, process.stdout), daemon=True)
        pump.start()
        self._running.append(Running(program, process, _identity(process.pid), pump))
        self._write_record()

    def _pump(self, name: str, pipe: IO[bytes]) -> None:
        with self._log_path(name).open("ab") as log:
            for line in pipe:
                log.write(line)
                log.flush()
                text = line.decode(errors="replace").rstrip()
                if not CHATTER.search(text):
                    with contextlib.suppress(OSError):  # a closed terminal or pipe; the log goes on
                        self._echo(name, text)

    def _write_record(self) -> None:
        ports = {f: getattr(self.settings, f) for f in (*PORTS, "hub_url", "hub_orgs", "policy", "hub_poll_interval_s")}
        record: dict[str, Any] = {
            "owner": _identity(os.getpid()).model_dump(),
            "settings": ports,
            "programs": {r.program.name: r.identity.model_dump() for r in self._running},
        }
        write_whole(self._record, json.dumps(record, indent=1), is_durable=False)

    # --- running ----------------------------------------------------------------------------------------------------

    def _require_alive(self, item: Running) -> None:
        code = item.process.poll()
        if code is not None:
            item.pump.join(timeout=2)
            log = self._log_path(item.program.name)
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            last = lines[-1].removeprefix("modelops: ") if lines else "it printed nothing"
            raise NotRunning(f"{item.program.name} ended with code {code} ({last}): read {log}.")

    def wait(self) -> None:
        """Return when a signal asks to stop; raise when a program ends by itself."""
        while not self._stopping:
            for item in self._running:
                self._require_alive(item)
            time.sleep(0.5)

    def request_stop(self) -> None:
        """Make `wait` return; safe to call from a signal handler."""
        self._stopping = True

    def stop(self) -> None:
        """Stop every program, newest first, and forget them. Nothing of theirs is left running."""
        self._stopping = True
        # the controller last: what is still running may be asking it for an endpoint
        order = sorted(self._running, key=lambda r: (r.program.name == "controller", -self._running.index(r)))
        for item in order:
            if is_alive(item.identity) and item.program.name != "controller":
                os.killpg(item.process.pid, signal.SIGTERM)
        for item in order:
            stop_group(item.identity, grace_s=item.program.grace_s)
            item.process.wait()
            item.pump.join(timeout=5)
        if self._running:
            self._record.unlink(missing_ok=True)
        self._running = []
        self._claim.close()


def _claim(home: Path) -> IO[str]:
    """Hold the home for one platform, until the file is closed or this program ends, however it ends."""
    path = home / "run" / "stack.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise UserError(
            f"{home} cannot hold the platform's state ({error.strerror}): set MODELOPS_HOME to a folder you may write."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        pid = lock.read()
        lock.close()
        raise UserError(
            f"the platform already runs from {home} (pid {pid}): use it, or stop it with Ctrl-C."
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _identity(pid: int) -> ProcessIdentity:
    """The identity of this process or of a child not yet waited for; such a process is at least a zombie."""
    identity = identify(pid)
    if identity is None:
        raise NotRunning(f"process {pid} vanished while it was started: start the platform again.")
    return identity


def _not_answering(url: str, service: str | None = None) -> str | None:
    """None when `url` answers 200 (and names `service`), else what it waits for."""
    try:
        answer = httpx.get(url, timeout=3)
    except httpx.HTTPError:
        return f"no answer at {url}"
    if answer.status_code != 200:
        return f"{url} answers {answer.status_code}"
    if service and answer.json().get("service") != service:
        return f"{url} is answered by another program"
    return None
