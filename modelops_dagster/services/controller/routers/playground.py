"""What the endpoint pages need besides the rest: a conversation, what a visitor may know, and whose key this is.

Applications call models through the gateway, which counts, charges and balances; this is for looking at one endpoint.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Literal

import httpx
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ConfigDict, Field
from starlette.types import Receive, Scope, Send

from modelops_dagster.clients.endpoints import EndpointRecord
from modelops_dagster.domain.access import Caller, Role
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.answers import error_answer
from modelops_dagster.services.controller.doorman import Asking, Visiting, needs, require
from modelops_dagster.services.controller.wishes import Ledger, Wishes

_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
_SOON_S = 5
MOST_VISITORS = 4
_DONE = b"[DONE]"  # how the stream of an OpenAI-compatible engine ends
_STARTING = frozenset({EndpointState.BUILDING, EndpointState.DEPLOYING, EndpointState.STARTUP})
KeyOf = Callable[[str], str | None]
log = logging.getLogger("modelops.controller")


class Message(Value):
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=400_000)


class Chat(Value):
    """A conversation and how it is to go on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64}]}
    )

    messages: tuple[Message, ...] = Field(min_length=1, max_length=500)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    max_tokens: int = Field(default=256, ge=1, le=32_768)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=4)
    stream: bool = Field(default=True, description="server-sent events as the engine writes them, else one document")


class Card(Value):
    """What anybody may know of a public endpoint."""

    name: str
    served_model_name: str
    state: EndpointState
    answers: bool = Field(description="it can be talked to now")


def is_public(ledger: Ledger, name: str) -> bool:
    """Whether a visitor may look at it and talk to it. What is somebody else's costs its key's owner: never that."""
    record = ledger.find(name)
    return record is not None and record.spec.visibility == "public" and not record.spec.is_external


def playground_router(ledger: Ledger, wishes: Wishes, key_of: KeyOf) -> APIRouter:
    """What the endpoint page needs and nothing else does."""
    # trust_env off: a proxy in the environment has no business between us and our own engine; and no connection is
    # kept, since an open one means that the engine is in use, so it would never sleep
    engines = httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT, limits=httpx.Limits(max_keepalive_connections=0))

    @asynccontextmanager
    async def connected(_: object) -> AsyncIterator[None]:
        async with engines:
            yield

    router = APIRouter(prefix="/v1", tags=["playground"], lifespan=connected)
    visitors = asyncio.Semaphore(MOST_VISITORS)

    _add_looking(router, ledger)

    @router.post(
        "/endpoints/{name}/chat",
        **needs(Role.VIEWER, or_visitor=True),
        summary="Talk to one endpoint",
        response_model=None,
    )
    async def chat(name: str, conversation: Chat, caller: Visiting) -> Response:
        """As OpenAI's chat completions. A private endpoint, and one of somebody else's, needs an operator's key.

        One that sleeps is woken; until it answers, this is 503 with the seconds after which to ask again.
        The call is not in the gateway's log, and in nobody's budget.
        """
        record = ledger.get(name)
        if not is_public(ledger, name):
            require(caller, Role.OPERATOR, f"Talking to {name}")
        url = record.status().url
        if url is None:
            asleep = record.desired == "Running" and record.status().state is EndpointState.SLEEPING
            return _not_answering(wishes.start(name) if asleep else record)
        if caller is None and visitors.locked():
            told = f"{MOST_VISITORS} visitors talk to endpoints already; come again soon, or use a key."
            return error_answer(429, "too_many_visitors", told, retry_after_s=_SOON_S)
        sent = engines.stream(
            "POST", f"{url}/chat/completions", json=_body(record, conversation), headers=_key(record, key_of)
        )
        async with AsyncExitStack() as stack:
            if caller is None:
                await stack.enter_async_context(visitors)
            try:
                answer = await stack.enter_async_context(sent)
                if answer.is_success and conversation.stream:
                    return _Events(name, answer, stack.pop_all())
                document = await answer.aread()
            except httpx.HTTPError as error:
                return _broken(name, str(error))
        return _whole(name, answer.status_code, document)

    return router


def _add_looking(router: APIRouter, ledger: Ledger) -> None:
    @router.get("/whoami", **needs(Role.VIEWER), summary="Whose key this is")
    async def whoami(caller: Asking) -> Caller:
        return caller

    @router.get("/endpoints/{name}/card", **needs(Role.VIEWER, or_visitor=True), summary="What anybody may know")
    async def card(name: str) -> Card:
        record = ledger.get(name)
        model, answers = record.spec.served_model_name, record.status().url is not None
        return Card(name=name, served_model_name=model, state=record.status().state, answers=answers)


def _key(record: EndpointRecord, key_of: KeyOf) -> dict[str, str]:
    """The header with the key that the spec of somebody else's endpoint names; engines of ours have none."""
    target = record.spec.target
    key = key_of(target.api_endpoint.api_key_name) if target and target.api_endpoint.api_key_name else None
    return {"Authorization": f"Bearer {key}"} if key else {}


def _body(record: EndpointRecord, conversation: Chat) -> dict[str, Any]:
    body = conversation.model_dump(exclude_none=True, exclude={"stop"})
    body |= {"model": record.spec.served_model_name}
    body |= {"stop": list(conversation.stop)} if conversation.stop else {}
    return body | ({"stream_options": {"include_usage": True}} if conversation.stream else {})


class _Events(StreamingResponse):
    """The engine's events as they come. However it ends, what it held is let go, which ends the engine's work too."""

    def __init__(self, name: str, answer: httpx.Response, held: AsyncExitStack) -> None:
        super().__init__(_events(name, answer), media_type="text/event-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _events(name: str, answer: httpx.Response) -> AsyncIterator[bytes]:
    """When the engine's events break off, one more says so."""
    last, error = b"", "it ended before it was done"
    try:
        async for piece in answer.aiter_bytes():
            last = (last + piece)[-len(_DONE) - 4 :]
            yield piece
    except httpx.HTTPError as broken:
        error = str(broken)
    if _DONE not in last:
        body = json.loads(bytes(_broken(name, error).body))
        yield f"\n\ndata: {json.dumps(body)}\n\n".encode()


def _whole(name: str, status: int, document: bytes) -> Response:
    """The engine's document, or its refusal in our shape. No header and no address of the engine goes on."""
    try:
        found = json.loads(document)
    except ValueError:
        found = None
    if status < 400 and isinstance(found, dict):
        return JSONResponse(found)
    if 400 <= status < 500 and isinstance(found, dict):
        told = found.get("error")
        message = told.get("message") if isinstance(told, dict) else found.get("message")
        return error_answer(422, "engine_refused", f"The engine refused the request: {str(message)[:500]}")
    log.warning("%s: the engine answered a chat with status %s", name, status)
    return error_answer(502, "engine_failed", f"The engine failed; `modelops endpoints logs {name}` says more.")


def _broken(name: str, error: str) -> JSONResponse:
    log.warning("%s: a chat broke off: %s", name, error)
    return error_answer(
        502, "engine_failed", f"The engine broke the connection; `modelops endpoints logs {name}` says more."
    )


def _not_answering(record: EndpointRecord) -> JSONResponse:
    name, state = record.name, record.status().state
    if record.desired == "Running" and state in _STARTING:
        wait_s = max(_SOON_S, round(record.start_seconds or 0))
        return error_answer(
            503, "endpoint_starting", f"{name} is {state}; ask again in a moment.", retry_after_s=wait_s
        )
    return error_answer(
        409,
        "endpoint_not_running",
        f"{name} is {state} and answers nothing; start it with Start, or with `modelops endpoints start {name}`.",
    )
