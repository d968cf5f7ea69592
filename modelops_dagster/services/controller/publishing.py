"""When the gateway is told where endpoints answer: at once, and as seldom as it looks where the table is long."""

import logging
import time
from collections.abc import Callable, Iterable

from modelops_dagster.clients.endpoints import LiveEndpoint, LiveStore
from modelops_dagster.domain.errors import DiskFull

log = logging.getLogger("modelops.controller")
Later = Callable[[float, Callable[[], None]], object]  # seconds, what is to be called then

# Characters, some two hundred endpoints with three replicas each. A shorter table is written in a fraction of a
# millisecond, with every change.
_LONG = 100_000
_EVERY_S = 0.05  # as often as the gateway looks


class Publisher:
    """Keeps the gateway's table as the records are. Used from one thread."""

    def __init__(self, live: LiveStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._later: Later | None = None
        self._waits = False
        self._size = 0
        self._wrote_at = 0.0

    def begin(self, endpoints: Iterable[LiveEndpoint]) -> None:
        """Write a table with these."""
        for endpoint in endpoints:
            self._live.put(endpoint)
        self.write()

    def put_off_with(self, later: Later) -> None:
        """A loop runs from now on: changes of a long table that come close together are written together."""
        self._later = later

    def tell(self, endpoint: LiveEndpoint) -> None:
        """Where an endpoint answers. Nothing is written when that was said already."""
        if self._live.put(endpoint):
            self._write_soon()

    def forget(self, name: str) -> None:
        """An endpoint is gone."""
        self._live.drop(name)
        self._write_soon()

    def flush(self) -> None:
        """Write what was put off: no loop runs any more."""
        if self._waits:
            self.write()

    def write(self) -> None:
        """Write the table now. What finds the disk full is told with the next change."""
        self._waits = False
        self._wrote_at = self._clock()
        try:
            self._size = self._live.write()
        except DiskFull as error:
            log.error(error.sentence)

    def _write_soon(self) -> None:
        wait_s = self._wrote_at + _EVERY_S - self._clock()
        if self._later is None or self._size < _LONG or wait_s <= 0:
            self.write()
        elif not self._waits:
            self._waits = True
            self._later(wait_s, self.write)
