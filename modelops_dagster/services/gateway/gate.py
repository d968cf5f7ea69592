"""The gate in front of LiteLLM: authentication, permission, what may be called, and what a client gets to see."""

import json
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelops_dagster.clients.calls import CLIENT_LEFT
from modelops_dagster.clients.gateway import SERVICE
from modelops_dagster.domain.choosing import position
from modelops_dagster.domain.gateway import KeyRecord, Route, RouteTarget, deployment_id, router_id, serving_targets
from modelops_dagster.services.gateway.admission import CALL_PATHS, Refusal, admit, visible_aliases
from modelops_dagster.services.gateway.answers import Message, Send, answer, refuse
from modelops_dagster.services.gateway.backlog import Backlog
from modelops_dagster.services.gateway.batches import BatchApi
from modelops_dagster.services.gateway.calls import CURRENT_CALL, Call, CallLog
from modelops_dagster.services.gateway.capacity import Capacity
from modelops_dagster.services.gateway.identity import (
    MAX_BODY_BYTES,
    PRIORITY,
    USER,
    Doorman,
    Operator,
    Receive,
    Scope,
    header,
    litellm_scope,
    read_body,
)
from modelops_dagster.services.gateway.mirror import Mirror
from modelops_dagster.services.gateway.reconcile import RouteReconciler, served_versions
from modelops_dagster.services.gateway.reply import Reply
from modelops_dagster.services.gateway.traffic import Traffic
from modelops_dagster.services.gateway.waking import Waking
from modelops_dagster.services.gateway.whereabouts import addresses

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """An ASGI application around LiteLLM's. Everything it does not know is refused."""

    def __init__(
        self,
        proxy: App,
        *,
        home: str,
        doorman: Doorman,
        routes: RouteReconciler,
        workers: Path,
        log: CallLog,
        traffic: Traffic,
        capacity: Capacity,
        backlog: Backlog,
        waking: Waking,
        mirror: Mirror,
        batches: BatchApi,
        forbidden: frozenset[str],
        problem: Callable[[], str | None],
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            proxy: LiteLLM's application.
            home: by what it says whose gateway it is.
            workers: folder with what each worker serves.
            forbidden: body fields a client may not send.
            problem: None while everything that guards a call is in place, else what is not.
            complain: called with one sentence when the gateway itself is at fault.
        """
        self._proxy = proxy
        self._home = home
        self._doorman = doorman
        self._routes = routes
        self._workers = workers
        self._log = log
        self._traffic = traffic
        self._capacity = capacity
        self._backlog = backlog
        self._waking = waking
        self._mirror = mirror
        self._batches = batches
        self._forbidden = forbidden
        self._problem = problem
        self._complain = complain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].rstrip("/") or "/"
        problem = self._problem()
        if problem is not None:
            self._complain(f"every call is refused: {problem}")
            await refuse(send, Refusal(503, "gateway_not_ready", "The gateway is not ready.", 1))
        elif path == "/health/liveliness":
            await answer(send, 200, {"service": SERVICE, "state": "ready", "home": self._home})
        elif path.startswith("/modelops/routes/"):
            await answer(send, 200, self._route_version(path.removeprefix("/modelops/routes/")))
        elif path in CALL_PATHS:
            await self._call(path, scope, receive, send)
        else:
            await self._look(path, scope, receive, send)

    # --- calls to a model -------------------------------------------------------------------------------------------

    async def _call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(call_id=secrets.token_hex(16), path=path)
        self._log.begin(call, self._traffic)
        try:
            refusal, body, document = await self._prepare(call, scope, receive)
            refusal = refusal or await self._waking.hold(call, scope, receive) or await call.wait(self._backlog)
            # what could answer may have fallen asleep while the call waited for its turn
            refusal = refusal or await self._waking.hold(call, scope, receive)
            if refusal is not None:
                call.status, call.error = refusal.status, refusal.code
                await refuse(send, refusal, call.call_id)
                return
            await self._forward(call, scope, receive, send, body)
            route = self._routes.table.get(call.alias or "")
            if route is not None and call.status == 200 and self._backlog.limit is None:
                self._mirror.copy(route, call, document)
        finally:
            self._log.add(call)

    async def _prepare(
        self, call: Call, scope: Scope, receive: Receive
    ) -> tuple[Refusal | None, bytes, Mapping[str, Any]]:
        who = self._doorman.authenticate(scope)
        if isinstance(who, Refusal):
            return who, b"", {}
        if scope["method"] != "POST":
            return Refusal(405, "method_not_allowed", "Use POST."), b"", {}
        if isinstance(who, Operator):
            return Refusal(403, "model_not_allowed", "The operator's key calls no model; make one for that."), b"", {}
        call.key = who
        call.batch = header(scope, PRIORITY.encode()) == "batch"
        refusal = self._backlog.refusal(batch=call.batch)
        if refusal is not None:
            return refusal, b"", {}  # before its body is read: refusing must cost next to nothing
        body = await read_body(receive)
        if body is None:
            return Refusal(413, "too_large", f"The body is above {MAX_BODY_BYTES // 2**20} MiB."), b"", {}
        try:
            document = json.loads(body)
        except ValueError:
            return Refusal(400, "invalid_request", "The body is not JSON."), b"", {}
        return self._admit(call, who, scope, body, document)

    def _admit(
        self, call: Call, who: KeyRecord, scope: Scope, body: bytes, document: Any
    ) -> tuple[Refusal | None, bytes, Mapping[str, Any]]:
        table = self._routes.table
        tags = header(scope, b"x-litellm-tags").split(",")
        admission = admit(who, table, document, [t.strip() for t in tags if t.strip()], self._forbidden)
        if isinstance(admission, Refusal):
            asked = document.get("model") if isinstance(document, Mapping) else None
            call.alias = asked if isinstance(asked, str) and asked in table else None
            return admission, b"", {}
        call.alias, call.stream, call.targets = admission.alias, admission.stream, admission.targets
        if who.log_prompts:
            call.prompt = _asked(document)
        refusal = self._capacity.occupy(call, who, admission.route, admission.targets, document, len(body))
        if refusal is not None:
            return refusal, b"", {}
        aliases = (admission.alias, *admission.fallbacks)
        at_admission = {a: _by_router_id(a, serving_targets(table[a], who.tags)) for a in aliases}
        call.grants = [lambda: _merged(at_admission.values()), lambda: self._granted_now(who, aliases)]
        user = (header(scope, USER.encode()) or who.key_id) if admission.route.sticky else None
        call.point = position(admission.alias, user)
        call.trial = admission.route.canary.trial_id if admission.route.canary else None
        if call.stream and path_is_completions(call.path) and "stream_options" not in document:
            # LiteLLM asks the engine for token counts by itself only for chats, and logs 0 tokens otherwise
            call.hides_usage = True
            body = json.dumps({**document, "stream_options": {"include_usage": True}}).encode()
        return None, body, document

    async def _forward(self, call: Call, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        given = False

        async def give() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        reply = Reply(call, send, self._addresses(call))
        token = CURRENT_CALL.set(call)
        try:
            await self._proxy(litellm_scope(scope, call, len(body)), give, reply.send)
            if not reply.ended:
                call.status, call.error = CLIENT_LEFT, "ClientDisconnected"
        except Exception as error:
            if not reply.ended:
                call.status, call.error = 500, type(error).__name__
            raise
        finally:
            CURRENT_CALL.reset(token)
        if call.status is not None and call.status >= 500:
            self._complain(f"call {call.call_id} to {call.alias!r} ended with {call.status} ({call.error})")

    def _granted_now(self, key: KeyRecord, aliases: Iterable[str]) -> dict[str, RouteTarget]:
        table = self._routes.table
        return _merged(_by_router_id(a, serving_targets(table[a], key.tags)) for a in aliases if a in table)

    def _addresses(self, call: Call) -> dict[str, str]:
        table = self._routes.table
        route = table.get(call.alias or "")
        routes = [table[a] for a in (route.alias, *route.fallbacks) if a in table] if route else []
        live = self._routes.live
        known = [(url, t.endpoint) for r in routes for t in r.targets for url in (t.url, *addresses(t, live)) if url]
        return {urlsplit(url).netloc: endpoint for url, endpoint in known}

    # --- looking at what there is -----------------------------------------------------------------------------------

    async def _look(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        who = self._doorman.authenticate(scope)
        if isinstance(who, Refusal):
            await refuse(send, who)
            return
        path = path.removeprefix("/v1")
        table = self._routes.table
        aliases = sorted(table) if isinstance(who, Operator) else visible_aliases(who, table)
        if isinstance(who, KeyRecord) and path.startswith(("/files", "/batches")):
            await self._batches(who, path, scope, receive, send)
        elif scope["method"] != "GET":
            await refuse(send, Refusal(404, "not_found", f"There is no {path!r} here."))
        elif path == "/models":
            await answer(send, 200, {"object": "list", "data": [_model(a, table[a]) for a in aliases]})
        elif path.startswith("/models/") and path.removeprefix("/models/") in aliases:
            alias = path.removeprefix("/models/")
            await answer(send, 200, _model(alias, table[alias]))
        elif path == "/modelops/routes":
            await answer(send, 200, {alias: _summary(table[alias], who) for alias in aliases})
        else:
            await refuse(send, Refusal(404, "not_found", f"There is no {path!r} here."))

    def _route_version(self, alias: str) -> dict[str, object]:
        """The version of a route that every worker serves; None while one of them does not."""
        versions = [served.get(alias) for served in served_versions(self._workers)]
        known = [v for v in versions if v is not None]
        everywhere = bool(versions) and len(known) == len(versions)
        return {
            "alias": alias,
            "home": self._home,
            "version": min(known) if everywhere else None,
            "gone": not known,
            "workers": len(versions),
        }


def path_is_completions(path: str) -> bool:
    """Whether it is the older API, with a prompt and no messages."""
    return path.endswith("/completions") and not path.endswith("/chat/completions")


def _by_router_id(alias: str, targets: Iterable[RouteTarget]) -> dict[str, RouteTarget]:
    return {router_id(alias, t): t for t in targets}


def _merged(parts: Iterable[Mapping[str, RouteTarget]]) -> dict[str, RouteTarget]:
    return {name: target for part in parts for name, target in part.items()}


def _asked(document: Mapping[str, object]) -> str:
    """What a call asks, as JSON: messages, prompt or input, whichever it has, with the system's words."""
    return json.dumps({k: document[k] for k in ("system", "messages", "prompt", "input") if k in document})


def _model(alias: str, route: Route) -> dict[str, object]:
    return {"id": alias, "object": "model", "created": int(route.updated_at.timestamp()), "owned_by": "modelops"}


def _summary(route: Route, who: KeyRecord | Operator) -> dict[str, object]:
    targets = route.targets if isinstance(who, Operator) else serving_targets(route, who.tags)
    return {
        "version": route.version,
        "targets": [{"deployment": deployment_id(t), "weight": t.weight, "tags": t.tags} for t in targets],
    }
