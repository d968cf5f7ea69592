"""How much one caller may ask for, told in the headers of the IETF draft that the Hub uses (ratelimit-headers-09)."""

import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

MAX_CALLERS = 10_000


class Allowance(NamedTuple):
    """What is left of a caller's window after one more request."""

    granted: bool
    headers: dict[str, str]


class Limits:
    """Fixed windows, one for each caller and kind of request.

    Args:
        requests: how many requests of one kind a caller has in a window.
        window_s: length of a window in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, requests: int, window_s: float = 300.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests, self.window_s, self._clock = requests, window_s, clock
        self._lock = threading.Lock()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def take(self, caller: str, kind: str) -> Allowance:
        """Count a request.

        Args:
            caller: an account or an address.
            kind: "api" or "resolvers", which are counted apart.
        """
        now = self._clock()
        with self._lock:
            if len(self._windows) > MAX_CALLERS:
                self._windows = {k: w for k, w in self._windows.items() if now - w[0] < self.window_s}
            begun, used = self._windows.get((caller, kind), (now, 0))
            if now - begun >= self.window_s:
                begun, used = now, 0
            used += 1
            self._windows[caller, kind] = begun, used
        reset_s = max(1, math.ceil(begun + self.window_s - now))
        headers = {
            "RateLimit": f'"{kind}";r={max(0, self.requests - used)};t={reset_s}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={self.requests};w={math.ceil(self.window_s)}',
        }
        if used > self.requests:
            headers["Retry-After"] = str(reset_s)
        return Allowance(used <= self.requests, headers)
