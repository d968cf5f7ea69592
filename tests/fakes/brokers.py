"""Real servers of queues, Debian's: each a process of the test's own on a loopback port, none of the system's."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from modelops_dagster.clients.processes import free_port
from modelops_dagster.clients.queues import Broker, open_broker
from modelops_dagster.domain.errors import QueueUnavailable
from modelops_dagster.domain.queues import PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, QueueAddress, QueueNames

PASSWORD = "of-the-tests"
LOOPBACK = "127.0.0.1"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
START_S = 180.0


@dataclass(frozen=True)
class QueueServer:
    """A server that runs, and who may use it."""

    url: str
    username: str
    password: str = PASSWORD

    def broker(self, password: str | None = None, **options: float) -> Broker:
        return open_broker(QueueAddress(url=self.url), self.username, password or self.password, **options)

    def environ(self) -> dict[str, str]:
        return {URL_VARIABLE: self.url, USERNAME_VARIABLE: self.username, PASSWORD_VARIABLE: self.password}


@contextmanager
def redis_server(folder: Path) -> Iterator[QueueServer]:
    """A Redis whose default user has a password."""
    port = free_port(LOOPBACK)
    command = [_program("redis-server"), "--port", str(port), "--bind", LOOPBACK, "--dir", str(folder)]
    with _running([*command, "--requirepass", PASSWORD, "--appendonly", "yes"], folder, dict(os.environ)):
        server = QueueServer(f"redis://{LOOPBACK}:{port}", "default")
        _wait_for(server)
        yield server


@contextmanager
def rabbitmq_server(folder: Path) -> Iterator[QueueServer]:
    """A RabbitMQ with a user of its own, and an epmd that ends with it."""
    port, dist, epmd = (free_port(LOOPBACK) for _ in range(3))
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = {LOOPBACK}:{port}\n"
        f"default_user = app\ndefault_pass = {PASSWORD}\nloopback_users = none\n"
        "disk_free_limit.absolute = 1MB\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_NODENAME": "tests@localhost",
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        # two threads: by default there is one for each core, and each waits by spinning
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
    names = [_program("epmd"), "-port", str(epmd), "-address", LOOPBACK]
    with _running(names, folder, environ), _running([str(RABBITMQ)], folder, environ):
        server = QueueServer(f"amqp://{LOOPBACK}:{port}", "app")
        _wait_for(server)
        yield server


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: .ci/run installs what the tests need"
    return found


@contextmanager
def _running(command: list[str], folder: Path, environ: dict[str, str]) -> Iterator[None]:
    """A process in a session of its own, which is ended with everything it started."""
    with (folder / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(server: QueueServer) -> None:
    async def answers() -> bool:
        broker = server.broker()
        try:
            await broker.put(QueueNames("nobody"), "none", [])
        except QueueUnavailable:
            return False
        finally:
            await broker.close()
        return True

    deadline = time.monotonic() + START_S
    while not asyncio.run(answers()):
        assert time.monotonic() < deadline, f"{server.url} does not answer"
        time.sleep(0.2)


class Cable:
    """What lies between a program and a server: `cut()` breaks every connection and lets none begin until `mend()`."""

    def __init__(self, server: QueueServer) -> None:
        parts = urlsplit(server.url)
        self._target = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server((LOOPBACK, 0))
        port = self._listener.getsockname()[1]
        self.server = replace(server, url=f"{parts.scheme}://{LOOPBACK}:{port}")
        self._ends: list[socket.socket] = []
        self._whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def mend(self) -> None:
        self._whole = True

    def remove(self) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._whole:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with source, sink, suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
