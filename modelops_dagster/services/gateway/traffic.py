"""How many calls are under way, over all workers, each one's share of an endpoint's time, and which worker hangs.

The counts are a piece of memory that the workers share: it is made before they are forked, and each writes a row of its
own, so there is no lock. A row of a worker that died is cleared before another one takes its place.
"""

import mmap
import time
from collections.abc import Callable
from zlib import crc32

SLOTS = 1 << 14
ALL = "\0all"


class SharedCounts:
    """`workers` rows of counters in shared memory."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._cells = memoryview(mmap.mmap(-1, workers * SLOTS * 4)).cast("I")
        self._beats = memoryview(mmap.mmap(-1, workers * 4)).cast("I")

    def row(self, worker: int) -> memoryview:
        """The counters that one worker writes."""
        return self._cells[worker * SLOTS : (worker + 1) * SLOTS]

    def clear(self, worker: int) -> None:
        """Forget what a dead worker had under way."""
        self._beats[worker] = 0
        self._cells[worker * SLOTS : (worker + 1) * SLOTS] = memoryview(bytes(SLOTS * 4)).cast("I")

    def beat(self, worker: int) -> None:
        """The worker's event loop turns."""
        self._beats[worker] = self._beats[worker] % 0xFFFFFFFF + 1

    def beats(self, worker: int) -> int:
        """Differs when its event loop has turned since; 0 until it does for the first time."""
        return self._beats[worker]

    def total(self, slot: int) -> int:
        """Calls under way in all workers."""
        return sum(self._cells[slot::SLOTS])


class Traffic:
    """One worker's part of it. Names are aliases and deployments; two that fall in one slot of 16,384 are one."""

    def __init__(self, shared: SharedCounts, worker: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._mine = shared.row(worker)
        self._now = now
        self._clocks: dict[int, tuple[float, float]] = {}

    def enter(self, name: str) -> float:
        """One more call. Returns the reading of the name's clock, to be given to `leave`."""
        slot = _slot(name)
        reading = self._read(slot)
        self._mine[slot] += 1
        return reading

    def leave(self, name: str, entered: float) -> float:
        """One call less. Returns its share of the time, in seconds: of n calls at once each has 1/n of every second.

        The clock of a name runs at 1/n, so a share is the difference of two readings. What other workers begin and end
        is seen at this worker's own next reading.
        """
        slot = _slot(name)
        reading = self._read(slot)
        self._mine[slot] = max(0, self._mine[slot] - 1)
        return reading - entered

    def under_way(self, name: str) -> int:
        """Calls under way in all workers."""
        return self._shared.total(_slot(name))

    def _read(self, slot: int) -> float:
        now = self._now()
        reading, at = self._clocks.get(slot, (0.0, now))
        reading += (now - at) / max(1, self._shared.total(slot))
        self._clocks[slot] = (reading, now)
        return reading


def _slot(name: str) -> int:
    return crc32(name.encode()) & (SLOTS - 1)
