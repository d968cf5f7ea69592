"""One row for every call a client made, refused ones too: who, what, which weights, how long, how much."""

import asyncio
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.calls import CLIENT_LEFT, CLIENTS_FAULT, UNFINISHED, CallFile
from modelops_dagster.clients.limits import LimitStore, Use, is_limited
from modelops_dagster.clients.trials import Attempt, TrialStore
from modelops_dagster.domain.gateway import KeyRecord, RouteTarget, deployment_id
from modelops_dagster.services.gateway.admission import Refusal
from modelops_dagster.services.gateway.backlog import Backlog
from modelops_dagster.services.gateway.traffic import ALL, Traffic

FLUSH_INTERVAL_S = 0.5
USAGE_WAIT_S = 15.0
MAX_WAITING_ROWS = 100_000

Grant = Callable[[], Mapping[str, RouteTarget]]


@dataclass(slots=True)
class Call:
    """One call on its way through the gateway. Times are monotonic seconds, `at` is UTC."""

    call_id: str
    path: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = field(default_factory=time.monotonic)
    key: KeyRecord | None = None
    alias: str | None = None
    stream: bool = False
    batch: bool = False
    shadow: bool = False
    hides_usage: bool = False
    broken: bool = False
    grants: list[Grant] = field(default_factory=list)
    point: float = 0.0
    trial: str | None = None
    traffic: Traffic | None = None
    backlog: Backlog | None = None
    picked: list[str] = field(default_factory=list)
    attempted: list[str] = field(default_factory=list)
    targets: tuple[RouteTarget, ...] = ()
    inside: tuple[RouteTarget, float] | None = None
    replica: str | None = None
    occupied: str | None = None
    hardware_usd: float = 0.0
    status: int | None = None
    error: str | None = None
    router_id: str | None = None
    first_byte_s: float | None = None
    ended_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    failures: list[dict[str, str | None]] = field(default_factory=list)
    prompt: str | None = None
    completion: str | None = None

    def granted(self) -> dict[str, RouteTarget]:
        """The targets this call may reach, by the Router's id.

        Routes change while calls are made: the Router may have looked before the change or after it, so what was
        granted when the call came in holds, and what its key is granted now does too.
        """
        found: dict[str, RouteTarget] = {}
        for grant in self.grants:
            found.update(grant())
        return found

    def least_busy(self, replicas: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """The deployment with the fewest calls under way, over all workers; by chance among equals."""

        def busy(deployment: Mapping[str, Any]) -> tuple[int, float]:
            url = deployment["litellm_params"].get("api_base") or ""
            return (self.traffic.under_way(url) if self.traffic else 0, random.random())  # noqa: S311 - any will do

        return min(replicas, key=busy) if len(replicas) > 1 else replicas[0]

    def enter(self, target: RouteTarget, url: str | None = None) -> None:
        """An attempt at this target begins, at this address of it; the one before, if there was one, is over."""
        self.leave()
        self.sent_on()
        self.picked.append(target.endpoint)
        if self.traffic is not None:
            self.inside = (target, self.traffic.enter(deployment_id(target)))
            if url is not None:
                self.traffic.enter(url)
                self.replica = url

    def leave(self) -> None:
        """The attempt under way is over; its share of the endpoint's time is what it cost."""
        if self.inside is not None and self.traffic is not None:
            target, entered = self.inside
            share_s = self.traffic.leave(deployment_id(target), entered)
            self.hardware_usd += share_s * target.usd_per_hour / 3600
            self.inside = None
        if self.replica is not None and self.traffic is not None:
            self.traffic.leave(self.replica, 0.0)
            self.replica = None

    async def wait(self, backlog: Backlog) -> Refusal | None:
        """Wait until LiteLLM may begin with it; None when it may, else why it never will."""
        self.backlog = backlog
        turn = backlog.enter(self.call_id, batch=self.batch)
        return await turn if turn is not None else None

    def sent_on(self) -> None:
        """LiteLLM has picked an endpoint for it."""
        if self.backlog is not None:
            self.backlog.leave(self.call_id)
            self.backlog = None

    def occupy(self, alias: str) -> None:
        """One of the alias's calls is under way; it is over when this one ends."""
        if self.traffic is not None:
            self.traffic.enter(alias)
            self.occupied = alias

    def end(self) -> None:
        """The call is over."""
        self.leave()
        self.sent_on()
        self.ended_s = time.monotonic()
        if self.traffic is not None:
            self.traffic.leave(ALL, 0.0)
            if self.occupied is not None:
                self.traffic.leave(self.occupied, 0.0)

    @property
    def answered(self) -> bool:
        """Whether an endpoint answered, wholly or in part."""
        return self.status in (200, CLIENT_LEFT) and self.router_id is not None

    @property
    def waits_for_usage(self) -> bool:
        """Whether an endpoint answered and LiteLLM has not yet said how many tokens that took."""
        return self.answered and not self.broken and self.cost_usd is None

    @property
    def total_usd(self) -> float | None:
        """Tokens of a provider, or the share of the hardware's time; None when no endpoint answered."""
        return (self.cost_usd or 0.0) + self.hardware_usd if self.answered else None

    def row(self, *, finished: bool = True) -> dict[str, object]:
        """The call as it is logged. `failures` are attempts that failed before the answer, or instead of one."""
        deployment = self.router_id.split(":", 1)[0] if self.router_id else None
        endpoint, _, commit = deployment.partition("@") if deployment else (None, "", None)
        return {
            "time": self.at,
            "call_id": self.call_id,
            "key_id": self.key.key_id if self.key else None,
            "key_alias": self.key.alias if self.key else None,
            "team": self.key.team if self.key else None,
            "path": self.path,
            "alias": self.alias,
            "deployment": deployment,
            "endpoint": endpoint,
            "commit_hash": commit,
            "stream": self.stream,
            "batch": self.batch,
            "shadow": self.shadow,
            "status": self.status,
            "error": self.error if finished else UNFINISHED,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": self.total_usd if finished else None,
            "latency_s": _since(self.started_s, self.ended_s),
            "ttft_s": _since(self.started_s, self.first_byte_s) if self.stream and self.status == 200 else None,
            "failures": self.failures,
            "prompt": self.prompt,
            "completion": self.completion,
        }

    def attempts(self) -> list[Attempt]:
        """What the attempts of this call say about the endpoints of a trial."""
        if self.trial is None:
            return []
        failed = [f["deployment"] for f in self.failures if f["status"] not in CLIENTS_FAULT]
        found = [Attempt(self.trial, d.partition("@")[0], None) for d in failed if d]
        if self.status == 200 and self.router_id is not None:
            endpoint = self.router_id.partition("@")[0]
            if not self.broken:
                found.append(Attempt(self.trial, endpoint, _since(self.started_s, self.ended_s)))
            elif not found:
                found.append(Attempt(self.trial, endpoint, None))
        return found


CURRENT_CALL: ContextVar[Call | None] = ContextVar("current_call", default=None)


class CallLog:
    """Takes the calls of one worker and writes them twice a second, with what else has to know how they ended.

    A call that is being answered is written too, as unfinished: what a killed worker leaves says so. What it loses is
    what came since the last flush.
    """

    def __init__(
        self, file: CallFile, limits: LimitStore, trials: TrialStore, *, complain: Callable[[str], None]
    ) -> None:
        self._file = file
        self._limits = limits
        self._trials = trials
        self._open: dict[str, Call] = {}
        self._ended: deque[Call] = deque(maxlen=MAX_WAITING_ROWS)
        self._unsettled: list[Call] = []
        self._shown: list[tuple[str, int | None]] = []
        self._writing = asyncio.Lock()
        self._complain = complain
        self._used: set[str] = set()
        self.on_use: Callable[[Iterable[str]], None] = lambda _: None

    def begin(self, call: Call, traffic: Traffic) -> None:
        """Take a call that comes in."""
        call.traffic = traffic
        traffic.enter(ALL)
        self._open[call.call_id] = call

    def add(self, call: Call) -> None:
        """Take a call that ended."""
        call.end()
        self._used.update(call.picked)
        del self._open[call.call_id]
        self._ended.append(call)

    async def flush(self) -> None:
        """Write what is new, without holding up the calls; a write that has begun ends even when this is cancelled.

        `on_use` is told the endpoints that were in use since the last time.
        """
        used = self._used.union(*(call.picked[-1:] for call in self._open.values()))
        self._used = set()
        self.on_use(used)
        await asyncio.shield(asyncio.create_task(self._write(everything=False)))

    async def close(self) -> None:
        """Write all rows: the worker stops."""
        await self._write(everything=True)

    async def _write(self, *, everything: bool) -> None:
        async with self._writing:
            ready, unfinished = self._take(everything=everything)
            begun = [(c.call_id, c.status) for c in unfinished]
            if not ready and begun == self._shown:
                return
            rows = [c.row() for c in ready]
            shown = [c.row(finished=c.ended_s is not None) for c in unfinished]
            try:
                await asyncio.to_thread(self._file.append, rows, shown)
            except OSError as error:
                self._put_back(ready, error)
            else:
                self._shown = begun
                self._settle(ready)

    def _take(self, *, everything: bool) -> tuple[list[Call], list[Call]]:
        """Calls whose rows are final, and calls whose rows are not."""
        now = time.monotonic()
        waiting = [
            c for c in self._ended if not everything and c.waits_for_usage and now - (c.ended_s or now) < USAGE_WAIT_S
        ]
        kept = {id(c) for c in waiting}
        ready = [c for c in self._ended if id(c) not in kept]
        self._ended = deque(waiting, maxlen=MAX_WAITING_ROWS)
        answering = [c for c in self._open.values() if c.status == 200]
        return ready, [*waiting, *answering]

    def _put_back(self, ready: list[Call], error: OSError) -> None:
        """A full disk must not stop the calls: the rows wait in memory."""
        self._ended.extendleft(reversed(ready))
        self._complain(f"the call log cannot be written ({error}); {len(self._ended)} rows wait in memory")

    def _settle(self, ready: list[Call]) -> None:
        pending = [*self._unsettled, *(c for c in ready if c.key is not None and is_limited(c.key))][-MAX_WAITING_ROWS:]
        self._unsettled = []
        try:
            self._trials.add([a for c in ready for a in c.attempts()])
            if pending:
                self._limits.settle(
                    Use(c.call_id, (c.prompt_tokens or 0) + (c.completion_tokens or 0), c.total_usd or 0.0)
                    for c in pending
                )
        except sqlite3.Error as error:
            self._unsettled = pending
            self._complain(f"what calls took cannot be counted ({error}); the estimates stand until it can")


def _since(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else round(end_s - start_s, 6)
