"""Whether there is room for a call: the gateway's own, the alias's, and what the key has left."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from modelops_dagster.clients.limits import LimitStore, is_limited
from modelops_dagster.domain.gateway import KeyRecord, Route, RouteTarget
from modelops_dagster.services.gateway.admission import Refusal, estimated_tokens, overloaded
from modelops_dagster.services.gateway.calls import Call
from modelops_dagster.services.gateway.traffic import ALL, Traffic

ASSUMED_HARDWARE_S = 10.0  # of an endpoint's time, for a call that has not ended
BATCH_WIDTH = 4  # calls at once to an alias without a limit, above which batches wait
RETRY_S = 1.0

# (provider/model, tokens in, tokens out) -> USD
Price = Callable[[str, int, int], float]


class Capacity:
    """Asked once for every call that was admitted. Without room it is refused and not made to wait."""

    def __init__(
        self,
        limits: LimitStore,
        traffic: Traffic,
        *,
        max_in_flight: int,
        price: Price,
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            max_in_flight: calls at once, over all workers.
            price: of a provider's tokens.
            complain: called with one sentence when limits cannot be checked.
        """
        self._limits = limits
        self._traffic = traffic
        self._max_in_flight = max_in_flight
        self._price = price
        self._complain = complain

    def occupy(
        self,
        call: Call,
        key: KeyRecord,
        route: Route,
        targets: Sequence[RouteTarget],
        document: Mapping[str, object],
        size_bytes: int,
    ) -> Refusal | None:
        """Take the room the call needs; None when there was room. it is given back when the call ends."""
        if self._traffic.under_way(ALL) > self._max_in_flight:  # this call is counted already
            return overloaded("Too many calls are under way; try again in a moment.", RETRY_S, batch=call.batch)
        busy = self._traffic.under_way(route.alias)
        if route.max_in_flight is not None and busy >= route.max_in_flight:
            told = f"{route.alias!r} answers {route.max_in_flight} calls at once and has them; try again in a moment."
            return Refusal(429, "alias_busy", told, RETRY_S)
        if call.batch and busy >= max(1, (route.max_in_flight or 2 * BATCH_WIDTH) // 2):
            return Refusal(429, "batch_waits", f"{route.alias!r} is busy, and other calls go before batches.", RETRY_S)
        refusal = self._within_limits(call, key, targets, document, size_bytes)
        if refusal is None:
            call.occupy(route.alias)
        return refusal

    def _within_limits(
        self,
        call: Call,
        key: KeyRecord,
        targets: Sequence[RouteTarget],
        document: Mapping[str, object],
        size_bytes: int,
    ) -> Refusal | None:
        if not is_limited(key):
            return None
        tokens_in, tokens_out = estimated_tokens(document, size_bytes)
        usd = max(self._estimate(t, tokens_in, tokens_out) for t in targets)
        try:
            found = self._limits.admit(key, call.call_id, tokens=tokens_in + tokens_out, usd=usd)
        except sqlite3.Error as error:
            self._complain(f"limits cannot be checked, so the call is refused ({type(error).__name__}: {error})")
            return Refusal(503, "limits_unavailable", "Limits cannot be checked now, so nothing is let through.", 1)
        return found and Refusal(429, f"{found.limit}_exceeded", found.sentence, found.retry_after_s)

    def _estimate(self, target: RouteTarget, tokens_in: int, tokens_out: int) -> float:
        if target.provider is None:
            return target.usd_per_hour / 3600 * ASSUMED_HARDWARE_S
        return self._price(f"{target.provider}/{target.served_model_name}", tokens_in, tokens_out)
