"""Running the labelling page: in the foreground for the command line, in a thread for tests."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

from modelops_dagster.domain.errors import PortTaken
from modelops_dagster.services.labelling.app import LabelApp

LOOPBACK = "127.0.0.1"


class LabelServer:
    """The page, for as long as the `with` block lasts. It binds to loopback and nothing else.

    Raises:
        PortTaken: another program has the port.
    """

    def __init__(self, app: LabelApp, port: int = 0) -> None:
        self.app = app
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(app.application(), access_log=None, shutdown_timeout=1.0)
        self._thread = threading.Thread(target=self._loop.run_forever, name="labelling", daemon=True)

    @property
    def url(self) -> str:
        """The address with the key that opens it."""
        return f"http://{LOOPBACK}:{self.port}/?key={self.app.key}"

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except OSError as error:
            self._stop()
            raise PortTaken(f"Port {self.port} is taken: give another one with --port, or 0 for a free one.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._stop()

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, self.port).start()
        self.port = self._runner.addresses[0][1]

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
