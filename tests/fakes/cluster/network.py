"""What leads calls to pods: a name and an address for each Service, and connections handed on to pods that are ready.

As kube-proxy does it: connection by connection, to a pod chosen at random, and a moment later than the API server says
so. A pod that goes keeps the connections it has.
"""

import asyncio
import itertools
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

PROXY_DELAY_S = 0.2  # until a change of who is ready has reached the proxies
_NUMBERS = itertools.count()


def address() -> str:
    """An address of loopback that nothing else of this process has: pods and Services all listen on the same port."""
    return f"127.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}.{next(_NUMBERS) % 254 + 1}"


def resolve(names: Path) -> None:
    """Make this process find the Services of a `Network`, as the cluster's DNS does for pods."""
    ask = socket.getaddrinfo

    def answer(host: Any, *rest: Any, **options: Any) -> Any:
        of_cluster = isinstance(host, str) and host.endswith(".svc")
        return ask(json.loads(names.read_text()).get(host, host) if of_cluster else host, *rest, **options)

    socket.getaddrinfo = answer
    sys.modules["uvloop"] = None  # type: ignore[assignment]  # it asks the system by itself


@dataclass
class _Service:
    """Where a Service listens, and the pods that connections are led to."""

    listener: socket.socket
    server: asyncio.Server | None = None
    pods: Sequence[str] = ()
    port: int = 0
    changes: list[tuple[float, Sequence[str]]] = field(default_factory=list)


class Network:
    """Services on loopback; use as a context manager. `names` is the file that `resolve` reads."""

    def __init__(self, folder: Path) -> None:
        self.names = folder / "names.json"
        self.names.write_text("{}")
        self._services: dict[str, _Service] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.follow({})
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def follow(self, wanted: Mapping[tuple[str, int], Sequence[str]]) -> None:
        """Be told which pods are ready behind each Service, by its name and port; to be called again and again."""
        now = time.monotonic()
        for name, port in wanted:
            if name not in self._services:
                self._open(name, port)
        for name in self._services.keys() - {name for name, _ in wanted}:
            self._close(name)
        for (name, _), pods in wanted.items():
            service = self._services[name]
            if pods != (service.changes[-1][1] if service.changes else service.pods):
                service.changes.append((now + PROXY_DELAY_S, pods))
            while service.changes and service.changes[0][0] <= now:
                service.pods = service.changes.pop(0)[1]

    def _open(self, name: str, port: int) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address(), port))
        self._services[name] = service = _Service(listener, port=port)

        async def serve() -> None:
            service.server = await asyncio.start_server(lambda r, w: self._hand_on(service, r, w), sock=listener)

        asyncio.run_coroutine_threadsafe(serve(), self._loop).result(10)
        self._tell()

    def _close(self, name: str) -> None:
        server = self._services.pop(name).server
        if server is not None:
            self._loop.call_soon_threadsafe(server.close)
        self._tell()

    def _tell(self) -> None:
        addresses = {name: service.listener.getsockname()[0] for name, service in self._services.items()}
        draft = self.names.with_suffix(".tmp")
        draft.write_text(json.dumps(addresses))
        draft.replace(self.names)

    async def _hand_on(self, service: _Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not service.pods:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(random.choice(service.pods), service.port)  # noqa: S311
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pour(reader, back), _pour(there, writer))


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
