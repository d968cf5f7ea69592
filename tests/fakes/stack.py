"""The platform's controller as tests run it: a home, the real program with the fake engine, a client."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

import httpx

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients import processes
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def wait_until(look: Callable[[], T], good: Callable[[T], object] = bool, timeout_s: float = 60.0) -> T:
    deadline = time.monotonic() + timeout_s
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"it did not happen in time: {seen}"
        time.sleep(0.03)
    return seen


class Stack:
    """One home, its controller program, and a client."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.home = folder / ".modelops"
        self.log = folder / "controller.log"
        self.checkpoint = folder / "checkpoint"
        self.checkpoint.mkdir()
        self.port = processes.free_port("127.0.0.1")
        own = {"MODELOPS_HOME": str(self.home), "MODELOPS_CONTROLLER_PORT": str(self.port)}
        self.settings = Settings.load({**own, **environ})
        self.program: subprocess.Popen[bytes] | None = None
        self.client: ModelOpsClient

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **self.settings.environ()}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.controller", *arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def modelops(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """The command line, for this home."""
        return subprocess.run(
            [sys.executable, "-m", "modelops_dagster.cli", *arguments],
            env={**os.environ, **self.settings.environ(), "COLUMNS": "200", **environ},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def up(self, *arguments: str) -> "Stack":
        self.program = self.run(*arguments)
        wait_until(self._answers, timeout_s=300)
        self.client = ModelOpsClient.from_settings(self.settings)
        return self

    def _answers(self) -> bool:
        try:
            # making a client costs more than the answer, and it is what starts that needs the CPU
            socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=30, trust_env=False).is_success
        except (OSError, httpx.TransportError):
            return False

    def kill(self) -> None:
        assert self.program is not None
        self.program.kill()
        self.program.wait()

    def terminate(self) -> int:
        assert self.program is not None
        self.program.terminate()
        return self.program.wait(timeout=30)

    def spec(self, *engine_args: str, name: str = "small", **fields: object) -> EndpointSpec:
        values = {
            "name": name,
            "checkpoint": str(self.checkpoint),
            "checkpoint_digest": "sha256:0",
            "engine": "fake",
            "engine_args": engine_args,
            "served_model_name": f"{name}@abc",
            **fields,
        }
        return EndpointSpec.model_validate(values)

    def ready(self, *engine_args: str, name: str = "small", **fields: object) -> EndpointStatus:
        self.client.apply(self.spec(*engine_args, name=name, **fields))
        status = self.client.wait_ready(name, 60)
        assert status.state is EndpointState.RUNNING, status
        return status

    def state(self, name: str = "small") -> EndpointState | None:
        status = self.client.get(name)
        return status.state if status else None

    def engines(self) -> dict[int, Path]:
        """Every living process of any engine of this home, whoever started it."""
        return processes.writers_under(self.home / "controller" / "logs")

    def jobs(self) -> dict[int, Path]:
        """Every living process of any research job of this home, whoever started it."""
        return processes.writers_under(self.home / "controller" / "research")

    def down(self) -> None:
        if self.program is not None and self.program.poll() is None:
            self.kill()
        for log in {*self.engines().values(), *self.jobs().values()}:
            processes.stop_group(processes.find_by_log(log), 0.0, log)
        for log in (self.home / "controller" / "logs").rglob("*.log"):
            # a killed controller leaves what it would remove
            shutil.rmtree(Path(tempfile.gettempdir()) / f"modelops-{log.stem}", ignore_errors=True)


class Stranger:
    """Another program, this one, on a port: it says 200 to everything and remembers the keys it was sent."""

    def __init__(self, port: int) -> None:
        self.headers: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, template: str, *args: object) -> None:
                del template, args

            def do_GET(self) -> None:
                outer.headers.append(self.headers.get("Authorization"))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"status": "ok", "data": [{"id": "small@abc"}]}')

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def __enter__(self) -> "Stranger":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        assert self.headers == [None] * len(self.headers), "the key was sent to a stranger"
