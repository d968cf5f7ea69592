"""How often somebody without a key may ask: a page that looks every few seconds, and no program that does not stop."""

import time
from collections import OrderedDict
from collections.abc import Callable

PER_S = 5.0
BURST = 40.0  # some pages opened at once
MOST_ADDRESSES = 4096


class VisitorRate:
    """A bucket of requests for each address, filled at `PER_S`. Of more addresses than it keeps the idlest are
    forgotten.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, address: str) -> bool:
        """Whether this request is one of those that the address may make now; it is counted then."""
        now = self._now()
        left, at = self._buckets.pop(address, (BURST, now))
        left = min(BURST, left + (now - at) * PER_S)
        self._buckets[address] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return left >= 1
