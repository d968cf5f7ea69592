"""Assembles one worker of the gateway. Importing LiteLLM's proxy takes seconds, so it happens when this is called."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from modelops_dagster.clients.keys import KeyStore, operator_key
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.services.gateway.admission import steering_fields
from modelops_dagster.services.gateway.calls import FLUSH_INTERVAL_S, CallLog
from modelops_dagster.services.gateway.config import GatewayPaths
from modelops_dagster.services.gateway.gate import Gate
from modelops_dagster.services.gateway.reconcile import RouteReconciler

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Worker:
    """One process of the gateway: LiteLLM's application, the route follower and the call log around one gate."""

    def __init__(self, paths: GatewayPaths, complain: Callable[[str], None], on_ready: Callable[[], None]) -> None:
        import litellm
        from litellm.proxy import proxy_server
        from litellm.types.utils import all_litellm_params

        from modelops_dagster.services.gateway import plugin

        self._litellm: Any = litellm
        self._server: Any = proxy_server
        self._plugin = plugin
        self._paths = paths
        self._complain = complain
        self._on_ready = on_ready
        self._tasks: list[asyncio.Task[None]] = []
        self._log = CallLog(paths.calls, complain=complain)
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
        proxy = self._server.app
        async with proxy.router.lifespan_context(proxy) as state:
            store = RouteStore(self._paths.root)
            store.prepare()
            follower = RouteReconciler(
                store,
                self._paths.workers,
                self._server.llm_router,
                complain=self._complain,
            )
            follower.follow_once()
            follower.report()
            self._gate = Gate(
                proxy,
                keys=KeyStore(self._paths.root),
                operator_key=operator_key(self._paths.operator_key),
                routes=follower,
                workers=self._paths.workers,
                log=self._log,
                forbidden=self._forbidden,
                problem=self.problem,
                complain=self._complain,
            )
            self._tasks = [asyncio.create_task(follower.follow()), asyncio.create_task(self._flush())]
            # from here on a failed call is one line of ours and a row in the call log, not LiteLLM's three tracebacks
            for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            self._on_ready()
            try:
                yield state or {}
            finally:
                for task in self._tasks:
                    task.cancel()
                follower.retire()
        self._log.flush(everything=True)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self._log.flush()


def build_app(paths: GatewayPaths, complain: Callable[[str], None], on_ready: Callable[[], None]) -> "Starlette":
    """The ASGI application of one worker. LiteLLM's variables must be set before this is called.

    Args:
        paths: where the gateway keeps its state.
        complain: called with one sentence when the gateway itself is at fault.
        on_ready: called once, when the worker takes calls.
    """
    from starlette.applications import Starlette
    from starlette.routing import Mount

    worker = Worker(paths, complain, on_ready)
    return Starlette(routes=[Mount("/", app=worker)], lifespan=worker.lifespan)
