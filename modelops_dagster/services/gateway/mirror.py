"""Copies of calls for shadow endpoints: sent beside the client's call, answered to nobody, written to the call log."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence

import httpx

from modelops_dagster.domain.gateway import SHADOW, Route, RouteTarget, router_id
from modelops_dagster.services.gateway.calls import Call, CallLog
from modelops_dagster.services.gateway.reply import answered_text
from modelops_dagster.services.gateway.traffic import Traffic

MAX_AT_ONCE = 8
TIMEOUT_S = 600.0
MIRRORED = ("/chat/completions", "/completions", "/embeddings")


class Mirror:
    """Sends copies. When too many are under way a call is not copied: a shadow must never slow the others down."""

    def __init__(self, log: CallLog, traffic: Traffic, where: Callable[[RouteTarget], Sequence[str]]) -> None:
        """
        Args:
            where: base URLs at which a target answers now.
        """
        self._where = where
        self._log = log
        self._traffic = traffic
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self._under_way: set[asyncio.Task[None]] = set()

    def copy(self, route: Route, call: Call, document: Mapping[str, object]) -> None:
        """Send the call to each shadow of the route whose share it falls in."""
        path = call.path.removeprefix("/v1")
        if path not in MIRRORED:
            return
        for target in route.targets:
            wanted = SHADOW in target.tags and random.random() * 100 < target.mirror_percent  # noqa: S311 - a share
            urls = self._where(target) if wanted else ()
            if urls and len(self._under_way) < MAX_AT_ONCE:
                url = random.choice(urls)  # noqa: S311 - any replica will do
                task = asyncio.create_task(self._send(target, url, path, call, document))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._under_way):
            task.cancel()
        await self._http.aclose()

    async def _send(
        self, target: RouteTarget, url: str, path: str, original: Call, document: Mapping[str, object]
    ) -> None:
        call = Call(f"{original.call_id}-shadow", original.path, key=original.key, alias=original.alias, shadow=True)
        call.prompt = original.prompt
        self._log.begin(call, self._traffic)
        call.enter(target, url)
        call.router_id = router_id(call.alias or "", target)
        body = {k: v for k, v in document.items() if k not in ("stream", "stream_options")}
        try:
            answer = await self._http.post(
                f"{url}{path}",
                content=json.dumps({**body, "model": target.served_model_name}),
                headers={"content-type": "application/json"},
            )
            call.status, call.first_byte_s = answer.status_code, time.monotonic()
            _note(call, answer)
        except httpx.HTTPError as error:
            call.status, call.error = 502, type(error).__name__
        finally:
            self._log.add(call)


def _note(call: Call, answer: httpx.Response) -> None:
    if answer.status_code != 200:
        call.error = "EndpointFailed"
        return
    if call.key is not None and call.key.log_prompts:
        call.completion = answered_text(answer.content)
    try:
        usage = answer.json().get("usage") or {}
    except ValueError:
        call.error = "NotJson"
        return
    call.prompt_tokens, call.completion_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    call.cost_usd = 0.0
