"""The gateway's watchman, one process beside the workers: canaries, swaps, endpoints whose time is over, batches."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.trials import TrialStore
from modelops_dagster.domain.alerts import canary_rolled_back
from modelops_dagster.domain.canary import Outcomes, judge_canary
from modelops_dagster.domain.errors import Conflict, ModelOpsError
from modelops_dagster.domain.gateway import Route
from modelops_dagster.domain.rollout import advance, due_to_stop, end_canary, retired

LOOK_INTERVAL_S = 1.0


class Keeper:
    """Looks at every route once a second. Each change is a compare-and-swap: whoever else changed the route wins."""

    def __init__(
        self,
        routes: RouteStore,
        trials: TrialStore,
        outbox: Outbox,
        controller: Callable[[], ModelOpsClient],
        *,
        complain: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """
        Args:
            controller: opened only when an endpoint is to be stopped.
            complain: called with one sentence when something could not be done; it is tried again.
        """
        self._routes = routes
        self._trials = trials
        self._outbox = outbox
        self._controller = controller
        self._complain = complain
        self._now = now
        self._known: set[str] | None = None

    async def follow(self) -> None:
        """Look for ever, until the process that started this one is gone."""
        parent = os.getppid()
        while os.getppid() == parent:
            self.look()
            await asyncio.sleep(LOOK_INTERVAL_S)

    def look(self) -> None:
        """One look at every route. Trials that no route has any more are forgotten when all of them could be read."""
        trials: set[str] = set()
        whole = True
        for alias in self._routes.aliases():
            try:
                route = self._routes.get(alias)
                if route is not None:
                    trials |= {route.canary.trial_id} if route.canary else set()
                    self._look_at(route)
            except Conflict:
                continue  # somebody changed the route just now; the next look sees it
            except (ModelOpsError, sqlite3.Error, OSError) as error:
                whole = False
                self._complain(f"route {alias!r} could not be looked after ({type(error).__name__}: {error})")
        if whole and trials != self._known:
            self._trials.forget(trials)
            self._known = trials

    def _look_at(self, route: Route) -> None:
        if route.canary is not None and self._ended_canary(route):
            return
        following = advance(route, at=self._now())
        if following is not None:
            self._routes.put(following, route.version)
            self._complain(f"route {route.alias!r}: {following.reason}")
            return
        over = due_to_stop(route, at=self._now())
        if over:
            elsewhere = self._routes.endpoints(besides=route.alias)
            unused = [name for name in over if name not in elsewhere]
            if unused:
                client = self._controller()
                for name in unused:
                    client.stop(name)
            self._routes.put(retired(route, over, at=self._now()), route.version)
            told = f"stopped {', '.join(unused)}, which nothing uses any more" if unused else "the swap is over"
            self._complain(f"route {route.alias!r}: {told}")

    def _ended_canary(self, route: Route) -> bool:
        watch = route.canary
        if watch is None:
            return False
        seen = self._trials.outcomes(watch.trial_id)
        canary = seen.pop(watch.endpoint, Outcomes())
        finding = judge_canary(canary, _sum(list(seen.values())), watch.bounds)
        if not finding.worse:
            return False
        at = self._now()
        reason = f"canary {watch.endpoint} rolled back, {finding.sentence}"
        self._routes.put(end_canary(route, at=at, reason=reason), route.version)
        self._complain(f"route {route.alias!r}: {reason}")
        # the channels are read when the alert is sent
        self._outbox.put([canary_rolled_back(route.alias, watch.endpoint, finding.sentence, at=at)], None, at)
        return True


def _sum(parts: list[Outcomes]) -> Outcomes:
    total = Outcomes()
    return Outcomes(
        calls=sum(p.calls for p in parts),
        failed=sum(p.failed for p in parts),
        latencies=tuple(map(sum, zip(total.latencies, *(p.latencies for p in parts), strict=True))),
    )
