"""Calls that were let in and were not sent on yet: how long they wait, and how many may.

A worker is one event loop. When it gets too little of the processor, or more calls than it can send on, they wait
inside it, and how many are under way says nothing about how long. So the wait is measured: the least of a look is what
a queue costs that never empties (as in CoDel, RFC 8289). While that is above the target, no more calls may wait than
come through within the target's time; the queue stays as long as the target, and the worker is never idle.
"""

import asyncio
import math
import time
from collections.abc import Callable

from modelops_dagster.services.gateway.admission import Refusal, overloaded

TICK_S = 0.05
LOOK_S = 0.5
LOOKS = 2  # in a row above the target before a call is refused: a pause is no queue
LONGEST_RETRY_S = 30.0


class Backlog:
    """One worker's. A call enters it when it was let in and leaves it when it is sent to an endpoint, or ends."""

    def __init__(
        self, target_s: float, *, complain: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        """
        Args:
            target_s: the wait, in seconds, above which calls are refused.
            complain: called with one sentence when refusing begins.
        """
        self.limit: int | None = None  # calls that may wait; None: all that come
        self._target_s = target_s
        self._complain = complain
        self._now = now
        self._entered: dict[str, float] = {}
        self._above = 0
        self._wait_s = 0.0
        self._least_s = self._least_late_s = math.inf
        self._begin_look()

    def enter(self, call_id: str) -> None:
        """The call was let in."""
        self._entered[call_id] = self._now()

    def leave(self, call_id: str) -> None:
        """The call was sent on, or is over; what it does after that is no wait."""
        entered_s = self._entered.pop(call_id, None)
        if entered_s is not None:
            self._sent += 1
            self._least_s = min(self._least_s, self._now() - entered_s)

    def refusal(self, *, batch: bool) -> Refusal | None:
        """Why a call that comes now is not let in; None when it is. Batches go first."""
        if self.limit is None or (len(self._entered) < self.limit and not batch):
            return None
        again_s = min(LONGEST_RETRY_S, max(1.0, self._wait_s))
        told = f"Calls wait {self._wait_s:.1f} s for the gateway itself; try again in {again_s:.0f} s."
        return overloaded(told, again_s, batch=batch)

    async def watch(self) -> None:
        """Look for ever. What a tick comes too late is the wait of whatever comes into the worker now."""
        while True:
            due_s = self._now() + TICK_S
            await asyncio.sleep(TICK_S)
            self.look(max(0.0, self._now() - due_s))

    def look(self, late_s: float) -> None:
        """Take one reading of how late the loop is, in seconds, and decide when enough of them were taken."""
        self._ticks += 1
        self._least_late_s = min(self._least_late_s, late_s)
        took_s = self._now() - self._began_s
        if took_s < LOOK_S or self._ticks < 2:
            return
        self._wait_s = max(self._least_late_s, self._least_s if self._sent else 0.0)
        self._decide(self._sent / took_s)
        self._begin_look()

    def _decide(self, sent_per_s: float) -> None:
        if self._wait_s > self._target_s:
            self._above += 1
            if self.limit is None and self._above >= LOOKS:
                self._complain(
                    f"calls wait {self._wait_s:.1f} s for the gateway itself, so new ones are refused: it needs more "
                    "of the processor, or more workers (MODELOPS_GATEWAY_WORKERS)"
                )
            if self.limit is not None or self._above >= LOOKS:
                self.limit = max(1, int(sent_per_s * self._target_s))
            return
        self._above = 0
        if self.limit is not None:
            over = self._wait_s < self._target_s / 2 and (self._sent or not self._entered)
            self.limit = None if over else self.limit + 1

    def _begin_look(self) -> None:
        self._began_s = self._now()
        self._ticks = self._sent = 0
        self._least_s = self._least_late_s = math.inf
