"""Calls to an endpoint that sleeps: they wake it, wait a bounded time for it, or are told when to come again."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

from modelops_dagster.clients.calls import CLIENT_LEFT
from modelops_dagster.clients.endpoints import Demand
from modelops_dagster.domain.choosing import choose
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.gateway import RouteTarget
from modelops_dagster.services.gateway.admission import Refusal
from modelops_dagster.services.gateway.calls import Call
from modelops_dagster.services.gateway.identity import Receive, Scope, header
from modelops_dagster.services.gateway.reconcile import RouteReconciler
from modelops_dagster.services.gateway.traffic import Traffic
from modelops_dagster.services.gateway.whereabouts import addresses, known_of, wakes

HELD = "\0held"
LOOK_INTERVAL_S = 0.05
NOTE_INTERVAL_S = 0.5
HOLD_HEADER = b"x-scale-up-timeout"  # as Hugging Face's endpoints name it: seconds the client would wait


class Waking:
    """One worker's part in it. However many calls ask for an endpoint, what is noted is one time, so it wakes once."""

    def __init__(
        self,
        routes: RouteReconciler,
        demand: Demand,
        traffic: Traffic,
        *,
        hold_s: float,
        max_held: int,
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            hold_s: longest time a call waits, in seconds.
            max_held: calls that wait at once, over all workers; more are refused at once.
            complain: called with one sentence when a demand cannot be noted.
        """
        self._routes = routes
        self._demand = demand
        self._traffic = traffic
        self._hold_s = hold_s
        self._max_held = max_held
        self._complain = complain

    def used(self, endpoints: Iterable[str]) -> None:
        """Note that these are asked for now, so that they do not fall asleep; others than the controller's are not."""
        for name in set(endpoints) & set(self._routes.live):
            try:
                self._demand.note(name, sum(map(self._traffic.under_way, self._routes.live[name].urls)))
            except OSError as error:
                self._complain(f"the use of {name} cannot be noted ({error}), so it may fall asleep while it is used")

    async def hold(self, call: Call, scope: Scope, receive: Receive) -> Refusal | None:
        """Wait until an endpoint can answer the call; None when one can, or when none will by waiting.

        The endpoint that the call's weight falls on is woken even when another one answers it meanwhile.
        """
        live = self._routes.live
        sleepers = [t for t in call.targets if wakes(t, live)]
        if not sleepers:
            return None
        chosen = choose(call.targets, call.point)
        wanted = chosen if chosen in sleepers else sleepers[0]
        if chosen in sleepers:
            self.used([wanted.endpoint])
        if self._can_answer(call):
            return None
        if self._traffic.under_way(HELD) >= self._max_held:
            return self._come_again(call, wanted)
        entered = self._traffic.enter(HELD)
        try:
            return await self._wait(call, wanted, _patience(scope, self._hold_s), receive)
        finally:
            self._traffic.leave(HELD, entered)

    async def _wait(self, call: Call, wanted: RouteTarget, hold_s: float, receive: Receive) -> Refusal | None:
        began = time.monotonic()
        noted = began - NOTE_INTERVAL_S
        client = asyncio.ensure_future(receive())  # the body was read: what comes now is that the client is gone
        try:
            while time.monotonic() - began < hold_s:
                if time.monotonic() - noted >= NOTE_INTERVAL_S:
                    self.used([wanted.endpoint])
                    noted = time.monotonic()
                await asyncio.wait({client}, timeout=LOOK_INTERVAL_S)
                if client.done():
                    return Refusal(CLIENT_LEFT, "client_left", "The client left while the endpoint woke up.")
                if self._can_answer(call) or not any(wakes(t, self._routes.live) for t in call.targets):
                    return None
            return self._come_again(call, wanted)
        finally:
            client.cancel()
            with suppress(asyncio.CancelledError):
                await client

    def _can_answer(self, call: Call) -> bool:
        return any(addresses(target, self._routes.live) for target in call.granted().values())

    def _come_again(self, call: Call, wanted: RouteTarget) -> Refusal:
        left_s = self._ready_in_s(wanted)
        told = f"{call.alias!r} was asleep and wakes up now; try again in {left_s:.0f} s."
        return Refusal(503, "endpoint_waking", told, left_s)

    def _ready_in_s(self, target: RouteTarget) -> float:
        """What is left of the start, by what the last one took."""
        found = known_of(target, self._routes.live)
        if found is None or found.start_seconds is None:
            return self._hold_s
        begun = found.state is EndpointState.STARTUP
        passed_s = (datetime.now(UTC) - found.since).total_seconds() if begun else 0.0
        return max(1.0, found.start_seconds - passed_s)


def _patience(scope: Scope, hold_s: float) -> float:
    """Seconds the call waits: as long as it says, and never longer than the gateway lets it."""
    try:
        return min(hold_s, max(0.0, float(header(scope, HOLD_HEADER))))
    except ValueError:
        return hold_s
