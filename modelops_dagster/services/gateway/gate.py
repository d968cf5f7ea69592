"""The gate in front of LiteLLM: authentication, permission, what may be called, and what a client gets to see."""

import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modelops_dagster.clients.gateway import SERVICE
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.domain.gateway import KeyRecord, Route, RouteTarget, deployment_id, router_id, serving_targets
from modelops_dagster.services.gateway.admission import CALL_PATHS, Refusal, admit, visible_aliases
from modelops_dagster.services.gateway.answers import answer, refuse, shown_chunk, shown_error, shown_headers
from modelops_dagster.services.gateway.calls import CLIENT_LEFT, CURRENT_CALL, Call, CallLog
from modelops_dagster.services.gateway.reconcile import RouteReconciler, served_versions

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 2**20
# What LiteLLM gets of a client's headers; the rest may hold keys, or steer it.
FORWARDED_HEADERS = frozenset(
    {
        *(b"host", b"user-agent", b"accept", b"x-litellm-tags", b"x-request-id"),
        *(b"anthropic-version", b"anthropic-beta", b"traceparent", b"tracestate"),
    }
)


class Reply:
    """LiteLLM's response on its way to the client. An error is held back until it is whole, and reworded."""

    def __init__(self, call: Call, send: Send, addresses: Mapping[str, str]) -> None:
        self.ended = False
        self._call = call
        self._send = send
        self._addresses = addresses
        self._held = b""

    async def send(self, message: Message) -> None:
        """Take one message of LiteLLM's application."""
        call = self._call
        if message["type"] == "http.response.start":
            call.status = message["status"]
            for name, value in message.get("headers", ()):
                if name.lower() == b"x-litellm-model-id":
                    call.router_id = value.decode("latin-1")
            if message["status"] < 400:
                await self._send({**message, "headers": shown_headers(message.get("headers", ()))})
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if (call.status or 0) < 400:
                await self._pass_on(message)
            else:
                self._held += message.get("body", b"")
                if self.ended:
                    await self._reword(call.status or 500)

    async def _pass_on(self, message: Message) -> None:
        chunk = message.get("body", b"")
        if chunk and self._call.first_byte_s is None:
            self._call.first_byte_s = time.monotonic()
        if self._call.stream:
            shown = shown_chunk(chunk, alias=self._call.alias or "", addresses=self._addresses)
            if shown is not chunk:
                self._call.broken, self._call.error = True, self._call.error or "EndpointFailed"
            if self._call.hides_usage and b'"usage"' in chunk:
                shown = b""  # the gateway asked for it, not the client
            message = {**message, "body": shown}
        await self._send(message)

    async def _reword(self, status: int) -> None:
        error = shown_error(status, self._held, alias=self._call.alias or "", addresses=self._addresses)
        self._call.status = error.status
        self._call.error = self._call.error or error.code
        await refuse(self._send, error, self._call.call_id)


class Operator:
    """The platform itself: it sees every route and calls no model."""


OPERATOR = Operator()


class Gate:
    """An ASGI application around LiteLLM's. Everything it does not know is refused."""

    def __init__(
        self,
        proxy: App,
        *,
        keys: KeyStore,
        operator_key: str,
        routes: RouteReconciler,
        workers: Path,
        log: CallLog,
        forbidden: frozenset[str],
        problem: Callable[[], str | None],
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            proxy: LiteLLM's application.
            operator_key: the platform's own key; it sees routes and calls no model.
            workers: folder with what each worker serves.
            forbidden: body fields a client may not send.
            problem: None while everything that guards a call is in place, else what is not.
            complain: called with one sentence when the gateway itself is at fault.
        """
        self._proxy = proxy
        self._keys = keys
        self._operator_key = operator_key
        self._routes = routes
        self._workers = workers
        self._log = log
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
            await refuse(send, Refusal(503, "gateway_not_ready", "The gateway is not ready."))
        elif path == "/health/liveliness":
            await answer(send, 200, {"service": SERVICE, "state": "ready"})
        elif path.startswith("/modelops/routes/"):
            await answer(send, 200, self._route_version(path.removeprefix("/modelops/routes/")))
        elif path in CALL_PATHS:
            await self._call(path, scope, receive, send)
        else:
            await self._look(path, scope, send)

    # --- calls to a model -------------------------------------------------------------------------------------------

    async def _call(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(call_id=secrets.token_hex(16), path=path)
        try:
            refusal, body = await self._prepare(call, scope, receive)
            if refusal is not None:
                call.status, call.error = refusal.status, refusal.code
                await refuse(send, refusal, call.call_id)
                return
            await self._forward(call, scope, receive, send, body)
        finally:
            self._log.add(call)

    async def _prepare(self, call: Call, scope: Scope, receive: Receive) -> tuple[Refusal | None, bytes]:
        who = self._authenticate(scope)
        if isinstance(who, Refusal):
            return who, b""
        if scope["method"] != "POST":
            return Refusal(405, "method_not_allowed", "Use POST."), b""
        if isinstance(who, Operator):
            return Refusal(403, "model_not_allowed", "The operator's key calls no model; make one for that."), b""
        call.key = who
        body = await _read_body(receive)
        if body is None:
            return Refusal(413, "too_large", f"The body is above {MAX_BODY_BYTES // 2**20} MiB."), b""
        try:
            document = json.loads(body)
        except ValueError:
            return Refusal(400, "invalid_request", "The body is not JSON."), b""
        tags = _header(scope, b"x-litellm-tags").split(",")
        admission = admit(who, self._routes.table, document, [t.strip() for t in tags if t.strip()], self._forbidden)
        if isinstance(admission, Refusal):
            asked = document.get("model") if isinstance(document, Mapping) else None
            call.alias = asked if isinstance(asked, str) and asked in self._routes.table else None
            return admission, b""
        call.alias, call.stream = admission.alias, admission.stream
        at_admission = _router_ids(admission.alias, admission.targets)
        call.grants = [lambda: at_admission, lambda: self._granted_now(who, admission.alias)]
        if call.stream and path_is_completions(call.path) and "stream_options" not in document:
            # LiteLLM asks the engine for token counts by itself only for chats, and logs 0 tokens otherwise
            call.hides_usage = True
            body = json.dumps({**document, "stream_options": {"include_usage": True}}).encode()
        return None, body

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
            await self._proxy(_with_identity(scope, call, len(body)), give, reply.send)
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

    def _granted_now(self, key: KeyRecord, alias: str) -> frozenset[str]:
        route = self._routes.table.get(alias)
        return _router_ids(alias, serving_targets(route, key.tags)) if route else frozenset()

    def _addresses(self, call: Call) -> dict[str, str]:
        route = self._routes.table.get(call.alias or "")
        return {urlsplit(t.url).netloc: t.endpoint for t in route.targets} if route else {}

    # --- looking at what there is -----------------------------------------------------------------------------------

    async def _look(self, path: str, scope: Scope, send: Send) -> None:
        who = self._authenticate(scope)
        if isinstance(who, Refusal):
            await refuse(send, who)
            return
        path = path.removeprefix("/v1")
        table = self._routes.table
        aliases = sorted(table) if isinstance(who, Operator) else visible_aliases(who, table)
        if scope["method"] != "GET":
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
            "version": min(known) if everywhere else None,
            "gone": not known,
            "workers": len(versions),
        }

    def _authenticate(self, scope: Scope) -> KeyRecord | Refusal | Operator:
        key = _credential(scope)
        if key is None:
            return Refusal(401, "missing_api_key", "No API key; send one as 'Authorization: Bearer <key>'.")
        if secrets.compare_digest(key.encode(), self._operator_key.encode()):
            return OPERATOR
        try:
            record = self._keys.lookup(key)
        except Exception as error:
            self._complain(f"the key store cannot be read, so the call is refused ({type(error).__name__}: {error})")
            return Refusal(503, "key_store_unavailable", "Keys cannot be checked now, so nothing is let through.")
        return record or Refusal(401, "invalid_api_key", "The API key is not valid.")


def _router_ids(alias: str, targets: Iterable[RouteTarget]) -> frozenset[str]:
    return frozenset(router_id(alias, t) for t in targets)


def path_is_completions(path: str) -> bool:
    """Whether it is the older API, with a prompt and no messages."""
    return path.endswith("/completions") and not path.endswith("/chat/completions")


def _header(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _credential(scope: Scope) -> str | None:
    scheme, _, token = _header(scope, b"authorization").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else _header(scope, b"x-api-key").strip()
    return key or None


def _with_identity(scope: Scope, call: Call, size_bytes: int) -> Scope:
    """The request as LiteLLM sees it: the key's id instead of the key, and nothing that was not checked.

    LiteLLM reads a body as a form when the client says so, and a model's name from the query: both would be a second
    request that nobody looked at.
    """
    kept = [(name, value) for name, value in scope["headers"] if name in FORWARDED_HEADERS]
    added = [
        (b"authorization", b"Bearer " + (call.key.key_id.encode() if call.key else b"")),
        (b"content-type", b"application/json"),
        (b"content-length", str(size_bytes).encode()),
        (b"x-litellm-call-id", call.call_id.encode()),
    ]
    path = {"path": call.path, "raw_path": call.path.encode(), "query_string": b""}
    return {**scope, **path, "headers": [*kept, *added]}


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _model(alias: str, route: Route) -> dict[str, object]:
    return {"id": alias, "object": "model", "created": int(route.updated_at.timestamp()), "owned_by": "modelops"}


def _summary(route: Route, who: KeyRecord | Operator) -> dict[str, object]:
    targets = route.targets if isinstance(who, Operator) else serving_targets(route, who.tags)
    return {
        "version": route.version,
        "targets": [{"deployment": deployment_id(t), "weight": t.weight, "tags": t.tags} for t in targets],
    }
