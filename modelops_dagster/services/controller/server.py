"""Starting and ending the controller program: one per home, on a port of its own, stopped by a signal."""

import asyncio
import contextlib
import errno
import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import Generator
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from modelops_dagster.client import controller_folder, create_token
from modelops_dagster.clients import processes
from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
from modelops_dagster.clients.endpoint_documents import SpecResolver
from modelops_dagster.clients.endpoints import (
    ExternalBackend,
    Launcher,
    MachineBackend,
)
from modelops_dagster.clients.endpoints.history import History, WatchedRecords
from modelops_dagster.clients.keys import AccessStore
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.errors import DiskFull, PortTaken, UserError
from modelops_dagster.domain.lifecycle import RestartPolicy
from modelops_dagster.services.controller.api import create_app
from modelops_dagster.services.controller.gateway import gateway_documents
from modelops_dagster.services.controller.hub_webhook import hub_push
from modelops_dagster.services.controller.monitor import Monitor
from modelops_dagster.services.controller.place import open_place
from modelops_dagster.services.controller.reconcile import SCALE_DOWN_S, Controller
from modelops_dagster.services.controller.workshop import Diagnose
from modelops_dagster.settings import Settings, secret

log = logging.getLogger("modelops.controller")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Server(uvicorn.Server):
    """Leaves signals to us: a stop asked for by SIGTERM is a success."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.contextmanager
def _sole_owner(home: Path) -> Generator[None, None, None]:
    """Hold the home. The kernel frees the lock when this program ends, however it ends; the content is for people.

    Raises:
        UserError: another controller holds it.
        DiskFull: the home cannot be written.
    """
    path = controller_folder(home) / "controller.lock"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # logs and arguments are nobody else's business
        lock = path.open("a+")
    except OSError as error:
        raise DiskFull(f"{path.parent} cannot be written ({error.strerror}); free space or fix its rights.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(f"Another controller (pid {holder}) owns {home}; stop it, or use it as it is.") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        PortTaken: the port belongs to another program, which the message names.
        UserError: the address or port is not ours to bind.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named, else asyncio leaves Nagle's algorithm on and small answers wait 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            who = processes.who_listens(port, host) or "another program"
            raise PortTaken(
                f"Port {port} on {host} is taken by {who}; end it, or set MODELOPS_CONTROLLER_PORT to another port."
            ) from error
        raise UserError(f"The controller cannot listen on {host}:{port}: {error.strerror}.") from error
    return listener


def serve(
    settings: Settings,
    launcher: Launcher,
    diagnose: Diagnose,
    *,
    keep_engines: bool = False,
    policy: RestartPolicy | None = None,
    tick_s: float = 1.0,
    grace_s: float = 15.0,
    scale_down_s: float = SCALE_DOWN_S,
) -> None:
    """Run the controller of `settings.home` until SIGTERM, SIGINT or SIGHUP.

    Args:
        keep_engines: engines go on when the controller is stopped; else they end with it and come back with it. Those
            on a cluster always go on.
        tick_s: seconds between two looks at an endpoint that nothing happens to.
        grace_s: seconds an engine gets between SIGTERM and SIGKILL.
        scale_down_s: seconds that traffic has to be low before a replica goes.

    Raises:
        UserError: the home has a controller already, the port is taken, or the cluster's configuration is not usable.
    """
    with _sole_owner(settings.home), bind(settings.host, settings.controller_port) as listener:
        folder = controller_folder(settings.home)
        history = History(folder / "history")
        credentials = CredentialStore(credentials_folder(settings.home), secret)
        access = AccessStore(settings.home)
        access.prepare()
        place = open_place(settings, folder, launcher, grace_s=grace_s, tick_s=tick_s)
        backend = MachineBackend(place.backend, ExternalBackend(folder / "logs", credentials.get))
        records = WatchedRecords(folder / "endpoints", history)
        calls = settings.home / "gateway" / "calls"
        controller = Controller(
            records,
            backend,
            diagnose,
            policy,
            slots=place.slots,
            refusal=place.refusal,
            desk=place.desk,
            calls=None if place.outlives else calls,  # a cluster has its own autoscaler
            alert=partial(_put_alert, Outbox(settings.home / "alerts")),
            tick_s=place.tick_s,
            scale_down_s=scale_down_s,
        )
        place.follow(controller.look_soon)
        place.take_over(records)
        app = create_app(
            *(controller, launcher),
            SpecResolver(settings.home / "checkpoints", launcher, settings.accelerator),
            Monitor(history, backend, calls, settings.endpoint_usd_per_hour),
            gateway_documents(settings.home, settings.gateway_url, controller.ledger),
            token=create_token(settings.home),
            home=str(settings.home),
            keep_engines=lambda: keep_engines or place.outlives,
            access=access.lookup,
            key_of=credentials.get,
            push=hub_push(settings),
        )
        _run(app, folder, settings, listener)


def _run(app: FastAPI, folder: Path, settings: Settings, listener: socket.socket) -> None:
    with _told_address(folder, settings.controller_host or settings.host, listener) as url:
        log.info("controller of %s at %s", settings.home, url)
        asyncio.run(_serve_until_signal(uvicorn.Config(app, log_config=None, access_log=False), listener))
    log.info("controller stopped")


@contextlib.contextmanager
def _told_address(folder: Path, host: str, listener: socket.socket) -> Generator[str, None, None]:
    """The URL, in a file as long as this lasts, for clients of a port that was picked."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    address = folder / "address.json"
    write_whole(address, json.dumps({"url": url, "pid": os.getpid()}), is_durable=False)
    yield url
    address.unlink(missing_ok=True)


def _put_alert(outbox: Outbox, alert: Alert) -> None:
    outbox.put([alert], None, alert.at)  # the channels are read when it is sent


async def _serve_until_signal(config: uvicorn.Config, listener: socket.socket) -> None:
    config.timeout_graceful_shutdown = 5
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, setattr, server, "should_exit", True)
    await server.serve(sockets=[listener])
    if not server.started:
        raise RuntimeError("the controller could not open its records")
