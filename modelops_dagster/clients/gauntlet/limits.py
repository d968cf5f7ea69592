"""A time limit for each of many attempts at once, watched by one timer."""

import asyncio
from types import TracebackType

LOOKS_PER_LIMIT = 100
LONGEST_LOOK_S = 0.5


class Limits:
    """Attempts of one length. Almost none needs its timer, so none has one of its own.

    An attempt ends with `TimeoutError` at most a hundredth of the limit, and half a second, after its time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ends: dict[asyncio.Timeout, float] = {}  # in the order they begin, which is the order they end
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin to look; in the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(LONGEST_LOOK_S, self.seconds / LOOKS_PER_LIMIT), self._look, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def limit(self) -> "_Attempt":
        """A block that may take as long as the limit."""
        return _Attempt(self)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for attempt, ends_at in self.ends.items():
            if ends_at > now:
                break
            if not attempt.expired():  # it may take a moment to end
                attempt.reschedule(now)
        self.watch()


class _Attempt:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._limits.ends[self._timeout] = asyncio.get_running_loop().time() + self._limits.seconds

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._limits.ends[self._timeout]
        await self._timeout.__aexit__(kind, error, trace)
