"""Running the Hub server: in a thread for tests and the demo, in the foreground for the command line."""

import asyncio
import errno
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from aiohttp import web

from modelops_dagster.domain.errors import PortTaken, UserError
from modelops_dagster.services.hub_server.access import Tokens
from modelops_dagster.services.hub_server.app import MAX_PAGE, HubApp
from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.limits import Limits
from modelops_dagster.services.hub_server.storage import OBJECTS, HubStorage

LOOPBACK = "127.0.0.1"


class HubServer:
    """A Hub over a folder, for as long as the `with` block lasts.

    Args:
        root: the folder with `<org>/<name>/` in it; made when it is absent.
        host: address to bind to.
        port: 0 picks a free one.
        tokens: lines of a token file: access tokens that open private and gated repositories.
        faults: what goes wrong on purpose.
        page_size: the longest page of a listing.
        limits: how much a caller may ask for; None: as much as it likes.

    Raises:
        PortTaken: another program has the port.
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        root: Path,
        host: str = LOOPBACK,
        port: int = 0,
        *,
        tokens: frozenset[str] = frozenset(),
        faults: Faults | None = None,
        page_size: int = MAX_PAGE,
        limits: Limits | None = None,
    ) -> None:
        self.root, self.host = root, host
        self.faults = faults or Faults()
        _require_writable(root)
        self.storage = HubStorage(root)
        self._hub = HubApp(self.storage, Tokens(tokens), self.faults, page_size, limits)
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hub server", daemon=True)
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """Base URL, for HF_ENDPOINT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._hub.application(), access_log=None, shutdown_timeout=1.0)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, self._socket).start())
        self._loop.call_soon(self._started.set)
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        unanswered = asyncio.all_tasks(self._loop)
        for task in unanswered:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*unanswered, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


def serve(
    root: Path,
    host: str = LOOPBACK,
    port: int = 0,
    *,
    tokens: frozenset[str] = frozenset(),
    limits: Limits | None = None,
    on_ready: Callable[[str, int], None] | None = None,
    on_look: Callable[[int, int], None] | None = None,
) -> None:
    """Serve `root` until SIGINT or SIGTERM.

    Args:
        root, host, port, tokens, limits: as `HubServer`.
        on_ready: called once with the base URL and the number of repositories.
        on_look: called before that with (repositories looked at, in all); new or changed files are read for their
            digests then, so that no client waits for it.
    """
    stop = threading.Event()
    with HubServer(root, host, port, tokens=tokens, limits=limits) as server:
        previous = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            repo_ids = list(server.storage.repo_ids())
            for number, repo_id in enumerate(repo_ids, 1):
                server.storage.main(repo_id)
                if on_look is not None:
                    on_look(number, len(repo_ids))
                if stop.is_set():
                    return
            if on_ready is not None:
                on_ready(server.url, len(repo_ids))
            stop.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _require_writable(root: Path) -> None:
    try:
        (root / OBJECTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{root} cannot be served ({error.strerror}): name a folder that this user may write, since the Hub keeps "
            "its commits in it."
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} on {host} belongs to another program: stop it, or choose another port (0: a free one)."
            ) from error
        raise UserError(
            f"Cannot listen on {host}:{port} ({error.strerror}): choose another address or port."
        ) from error
