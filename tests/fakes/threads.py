"""Servers and clients of the tests in threads: an HTTP handler on loopback, an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Quiet:
    """For a handler: it does not write a line for every request."""

    def log_message(self, template: str, *args: object) -> None:
        del template, args


@contextmanager
def http_server(handler: Callable[..., BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """Answer on loopback for as long as the block lasts; gives the base URL, without a slash at its end."""
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def loop_thread(running: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[None]:
    """Keep an asynchronous context open, in a thread with an event loop of its own, for as long as the block lasts."""
    ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        async with running():
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


class UntilLeft:
    """Calls that a thread makes, on an event loop of its own, until the block ends; `over` says that it did."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.make_calls()))

    async def make_calls(self) -> None:
        """Make calls until `over` is set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._thread.join()
