"""Assembles one worker of the gateway. Importing LiteLLM's proxy takes seconds, so it happens when this is called."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.calls import CallFile
from modelops_dagster.clients.credentials import CredentialStore
from modelops_dagster.clients.endpoints import Demand, LiveStore
from modelops_dagster.clients.gateway import home_digest
from modelops_dagster.clients.keys import KeyStore, operator_key
from modelops_dagster.clients.limits import LimitStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.trials import TrialStore
from modelops_dagster.services.gateway.admission import steering_fields
from modelops_dagster.services.gateway.backlog import Backlog
from modelops_dagster.services.gateway.batches import BatchApi
from modelops_dagster.services.gateway.calls import FLUSH_INTERVAL_S, CallLog
from modelops_dagster.services.gateway.capacity import Capacity
from modelops_dagster.services.gateway.config import GatewayPaths
from modelops_dagster.services.gateway.gate import App, Gate
from modelops_dagster.services.gateway.identity import Doorman
from modelops_dagster.services.gateway.mirror import Mirror
from modelops_dagster.services.gateway.reconcile import RouteReconciler
from modelops_dagster.services.gateway.traffic import SharedCounts, Traffic
from modelops_dagster.services.gateway.waking import Waking
from modelops_dagster.services.gateway.whereabouts import addresses
from modelops_dagster.settings import secret

if TYPE_CHECKING:
    from starlette.applications import Starlette

BEAT_INTERVAL_S = 0.5


class Worker:
    """One process of the gateway: LiteLLM's application, the route follower and the call log around one gate.

    It is made before the fork, so that LiteLLM is imported once; what must not be shared is opened in `lifespan`.
    """

    def __init__(
        self,
        paths: GatewayPaths,
        counts: SharedCounts,
        *,
        batch_key: str,
        max_in_flight: int,
        wake_hold_s: float,
        max_wait_s: float,
        complain: Callable[[str], None],
    ) -> None:
        import litellm
        from litellm.proxy import proxy_server
        from litellm.types.utils import all_litellm_params

        from modelops_dagster.services.gateway import plugin
        from modelops_dagster.services.gateway.repairs import keep_streams_of_second_attempts

        keep_streams_of_second_attempts()
        self.number = 0
        self.on_ready: Callable[[], None] = lambda: None
        self._litellm: Any = litellm
        self._server: Any = proxy_server
        self._plugin = plugin
        self._paths = paths
        self._counts = counts
        self._batch_key = batch_key
        self._max_in_flight = max_in_flight
        self._wake_hold_s = wake_hold_s
        self._max_wait_s = max_wait_s
        self._complain = complain
        self._tasks: list[asyncio.Task[None]] = []
        self._forbidden = steering_fields(all_litellm_params)
        self._gate: Gate | None = None

    def problem(self) -> str | None:
        """What is missing of the things that guard a call; None when nothing is."""
        if self._server.user_custom_auth is not self._plugin.auth:
            return "LiteLLM does not use the gateway's authentication"
        if self._plugin.logger not in self._litellm.callbacks:
            return "LiteLLM did not load the gateway's logger"
        if not self._tasks or any(task.done() for task in self._tasks):
            return "the routes are not being followed"
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._gate is None:
            raise RuntimeError("the gateway was called before it started")
        await self._gate(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _: "Starlette") -> AsyncIterator[Mapping[str, Any]]:
        """Start LiteLLM, take over the routes, and only then let calls in. On the way out, write the last rows."""
        proxy, paths = self._server.app, self._paths
        limits, trials = LimitStore(paths.limits), TrialStore(paths.trials)
        log = CallLog(CallFile(paths.calls), limits, trials, complain=self._complain)
        traffic = Traffic(self._counts, self.number)
        async with proxy.router.lifespan_context(proxy) as state:
            follower = self._follower()
            mirror = Mirror(log, traffic, lambda target: addresses(target, follower.live))
            backlog = Backlog(self._max_wait_s, complain=self._complain)
            self._gate = self._build_gate(follower, log, traffic, limits, mirror, backlog)
            watched = (follower.follow(), backlog.watch(), self._beat(), _flush(log, os.getppid()))
            self._tasks = [asyncio.create_task(task) for task in watched]
            # from here on a failed call is one line of ours and a row in the call log, not LiteLLM's three tracebacks
            for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            # what was imported stays: the collector need not look at it again and again while calls are answered
            gc.collect()
            gc.freeze()
            self.on_ready()
            try:
                yield state or {}
            finally:
                for task in self._tasks:
                    task.cancel()
                await mirror.close()
                follower.retire()
        await log.close()
        limits.close()
        trials.close()

    def _follower(self) -> RouteReconciler:
        store = RouteStore(self._paths.root)
        store.prepare()
        follower = RouteReconciler(
            store,
            LiveStore(self._paths.endpoints),
            self._paths.workers,
            self._server.llm_router,
            credentials=CredentialStore(self._paths.credentials, secret),
            complain=self._complain,
        )
        follower.follow_once()
        follower.report()
        return follower

    def _build_gate(
        self,
        follower: RouteReconciler,
        log: CallLog,
        traffic: Traffic,
        limits: LimitStore,
        mirror: Mirror,
        backlog: Backlog,
    ) -> Gate:
        paths = self._paths
        batches = BatchStore(paths.root)
        batches.prepare()
        waking = Waking(
            follower,
            Demand(paths.endpoints),
            traffic,
            hold_s=self._wake_hold_s,
            max_held=max(1, self._max_in_flight // 2),
            complain=self._complain,
        )
        log.on_use = waking.used
        return Gate(
            self._server.app,
            home=home_digest(paths.root.parent),
            doorman=Doorman(
                KeyStore(paths.root),
                operator_key=operator_key(paths.operator_key),
                batch_key=self._batch_key,
                complain=self._complain,
            ),
            routes=follower,
            workers=paths.workers,
            log=log,
            traffic=traffic,
            capacity=Capacity(
                limits, traffic, max_in_flight=self._max_in_flight, price=self._price, complain=self._complain
            ),
            backlog=backlog,
            waking=waking,
            mirror=mirror,
            batches=BatchApi(batches),
            forbidden=self._forbidden,
            problem=self.problem,
            complain=self._complain,
        )

    async def _beat(self) -> None:
        """Tell the supervisor that this worker does not hang."""
        while True:
            self._counts.beat(self.number)
            await asyncio.sleep(BEAT_INTERVAL_S)

    def _price(self, model: str, tokens_in: int, tokens_out: int) -> float:
        """What LiteLLM's table says; 0 for a model that it does not know, as LiteLLM itself will charge it."""
        try:
            found = self._litellm.cost_per_token(model=model, prompt_tokens=tokens_in, completion_tokens=tokens_out)
        except Exception:
            return 0.0
        return float(sum(found))


async def _flush(log: CallLog, parent: int) -> None:
    """Write the log, and end this worker when the process that started it is gone: nobody else would."""
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        await log.flush()
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def build_app(worker: Worker) -> App:
    """The ASGI application of one worker. Starlette sees to its beginning and its end; calls do not pass through it."""
    from starlette.applications import Starlette

    around = Starlette(lifespan=worker.lifespan)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (around if scope["type"] == "lifespan" else worker)(scope, receive, send)

    return app
