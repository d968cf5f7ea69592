"""Calls that were let in and were not sent on yet: whose turn it is, how long they wait, and how many may.

A worker is one event loop, which takes turns among all that it has begun. So it begins few calls at once; the others
queue in front of LiteLLM, where they cost nothing, and neither an answer under way nor a refusal has to wait for them.

When the worker gets too little of the processor, or more calls than it can send on, how many are under way says nothing
about how long that takes. So the wait is measured: the least of a look is what a queue costs that never empties (as in
CoDel, RFC 8289). While that is above the target, no more calls may wait than come through within the target's time; the
newest ones are refused, so that the queue stays as long as the target and the worker is never idle.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from modelops_dagster.services.gateway.admission import Refusal, overloaded

TICK_S = 0.05
LOOK_S = 0.5
AT_ONCE = 8  # calls that LiteLLM works on before it has picked an endpoint; it is one processor's work
LOOKS = 2  # in a row above the target before a call is refused: a pause is no queue
LONGEST_RETRY_S = 30.0


class _Queued(NamedTuple):
    turn: asyncio.Future[Refusal | None]
    batch: bool


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
        self._begun: dict[str, float] = {}
        self._queue: dict[str, _Queued] = {}
        self._above = 0
        self._wait_s = 0.0
        self._least_s = self._least_late_s = math.inf
        self._begin_look()

    def enter(self, call_id: str, *, batch: bool) -> asyncio.Future[Refusal | None] | None:
        """The call was let in. None when it is its turn, else a future of that, or of why its turn never comes."""
        self._entered[call_id] = self._now()
        if len(self._begun) < AT_ONCE and not self._queue:
            self._begun[call_id] = self._entered[call_id]
            return None
        turn: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        self._queue[call_id] = _Queued(turn, batch)
        return turn

    def leave(self, call_id: str) -> None:
        """The call was sent on, or is over; what it does after that is no wait."""
        entered_s = self._entered.pop(call_id, None)
        if entered_s is None or self._queue.pop(call_id, None) is not None:
            return
        self._sent += 1
        self._least_s = min(self._least_s, self._now() - entered_s)
        self._begun.pop(call_id, None)
        self._go_on()

    def refusal(self, *, batch: bool) -> Refusal | None:
        """Why a call that comes now is not let in; None when it is. Batches go first."""
        if self.limit is None or (len(self._entered) < self.limit and not batch):
            return None
        return self._refused(batch=batch)

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
        sent_per_s = self._sent / took_s
        had_s = self._least_s if self._sent else 0.0
        # what comes now waits for all before it (Little's law); where nobody queues, the pace is that of the callers
        ahead_s = len(self._entered) / sent_per_s if self._sent and self._queue else 0.0
        self._wait_s = max(self._least_late_s, had_s, ahead_s)
        self._decide(sent_per_s)
        self._begin_look()

    def _decide(self, sent_per_s: float) -> None:
        if self._wait_s <= self._target_s:
            self._above = 0
            self._let_go()
            if self.limit is not None:
                over = self._wait_s < self._target_s / 2 and (self._sent or not self._entered)
                self.limit = None if over else self.limit + 1
            return
        self._above += 1
        if self.limit is None and self._above < LOOKS:
            return
        if self.limit is None:
            self._complain(
                f"calls wait {self._wait_s:.1f} s for the gateway itself, so new ones are refused: it needs more of "
                "the processor, or more workers (MODELOPS_GATEWAY_WORKERS)"
            )
        self.limit = max(1, int(sent_per_s * self._target_s))
        self._turn_away(self.limit)

    def _turn_away(self, limit: int) -> None:
        """Refuse those in the queue that are too many: batches, then whoever came last."""
        batches = [call_id for call_id, queued in self._queue.items() if queued.batch]
        others = [call_id for call_id, queued in self._queue.items() if not queued.batch]
        too_many = len(self._entered) - len(batches) - limit
        for call_id in batches + others[max(0, len(others) - max(0, too_many)) :]:
            queued = self._queue.pop(call_id)
            del self._entered[call_id]
            if not queued.turn.done():
                queued.turn.set_result(self._refused(batch=queued.batch))

    def _let_go(self) -> None:
        """A call that hangs before it is sent on, while the loop is in time, holds up no other."""
        now = self._now()
        self._begun = {c: begun_s for c, begun_s in self._begun.items() if now - begun_s <= self._target_s}
        self._go_on()

    def _go_on(self) -> None:
        while self._queue and len(self._begun) < AT_ONCE:
            call_id = next(iter(self._queue))
            queued = self._queue.pop(call_id)
            self._begun[call_id] = self._now()
            if not queued.turn.done():
                queued.turn.set_result(None)

    def _refused(self, *, batch: bool) -> Refusal:
        again_s = min(LONGEST_RETRY_S, max(1.0, self._wait_s))
        told = f"Calls wait {self._wait_s:.1f} s for the gateway itself; try again in {again_s:.0f} s."
        return overloaded(told, again_s, batch=batch)

    def _begin_look(self) -> None:
        self._began_s = self._now()
        self._ticks = self._sent = 0
        self._least_s = self._least_late_s = math.inf
