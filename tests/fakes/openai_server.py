"""An OpenAI-compatible server on loopback that answers well, or misbehaves in one chosen way."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from tests.fakes.threads import loop_thread

MODEL = "fake"
Fault = Literal[
    "none", "hang", "html", "not_json", "empty_choices", "unauthorized", "forbidden", "not_found", "rate_limited",
    "server_error", "cut_stream", "no_finish", "slow_drip", "close", "error_in_stream", "endless",
]  # fmt: skip


def words_of(text: str) -> list[str]:
    """The text cut into pieces that join to itself; one piece is one token here."""
    return [(" " if i else "") + w for i, w in enumerate(text.split(" "))]


@dataclass
class OpenAIServer:
    """Knobs first, what was seen after them. `answer` gets the body and returns the completion's text."""

    answer: Callable[[Mapping[str, Any]], str] = lambda body: f"You said: {last_user(body)}"
    fault: Fault = "none"
    faulty: int = 1_000_000
    """How many completion requests fail before the server is well."""
    well_first: int = 0
    """How many completion requests are answered well before the first that fails."""
    retry_after: str | None = None
    first_token_s: float = 0.0
    token_s: float = 0.0
    latency_s: float = 0.0
    """Time a plain answer takes."""
    role_chunk_first: bool = False
    reasoning: str = ""
    ends: bool = True
    max_context: int = 2048
    offers: frozenset[str] = frozenset({"health", "tokenize", "logprobs", "json", "tools", "completions", "ignore_eos"})
    double_bos: bool = False
    ignores: frozenset[str] = frozenset()
    """Of: stop, max_tokens, model, context, system, usage_in_stream, bad_requests."""
    breaks: frozenset[str] = frozenset()
    """Of: history (earlier turns are refused), disconnect (dies when a client leaves), errors (no message in them),
    stream_text (streams lose their last piece)."""
    api_key: str | None = None
    shape: str | None = None
    """JSON to answer with as it is, as a body or as the only event of a stream."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of completion requests, one for each body."""
    most_at_once: int = 0
    at_once: int = 0
    _was_left: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OpenAIServer"]:
        """Serve on a free loopback port inside the running event loop."""
        app = web.Application(client_max_size=2**24)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        try:
            yield self
        finally:
            await runner.cleanup()

    @contextmanager
    def in_thread(self) -> Iterator["OpenAIServer"]:
        """Serve from a thread with an event loop of its own."""
        with loop_thread(self.running):
            yield self

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if "health" in self.offers else 404)

    async def _models(self, request: web.Request) -> web.Response:
        if not self._may(request):
            return _error(401, "Incorrect API key provided")
        return web.json_response({"object": "list", "data": [{"id": MODEL, "max_model_len": self.max_context}]})

    def _may(self, request: web.Request) -> bool:
        return self.api_key is None or request.headers.get("Authorization") == f"Bearer {self.api_key}"

    async def _tokenize(self, request: web.Request) -> web.Response:
        if "tokenize" not in self.offers:
            return web.Response(status=404)
        return web.json_response({"tokens": [1, 1, 5] if self.double_bos else [1, 4, 5]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if not self._may(request):
                return _error(401, "Incorrect API key provided")
            if self.fault != "none" and self.well_first < len(self.bodies) <= self.faulty:
                broken = await self._misbehave(request)
                if broken is not None:
                    return broken
            if self.shape is not None:
                event = f"data: {self.shape}\n\ndata: [DONE]\n\n"
                return web.Response(text=event if body.get("stream") else self.shape, content_type="text/plain")
            refused = self._refuse(request, body)
            if refused is not None:
                return refused if "errors" not in self.breaks else web.Response(status=refused.status, text="no")
            return await self._answer(request, body)
        except asyncio.CancelledError:
            self._was_left = True
            raise
        finally:
            self.at_once -= 1

    async def _misbehave(self, request: web.Request) -> web.StreamResponse | None:
        headers = {"Retry-After": self.retry_after} if self.retry_after is not None else {}
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "close" and request.transport is not None:
            request.transport.abort()
        if self.fault == "endless":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 1_000_000)
        if self.fault == "html":
            return web.Response(text="<html><body>Under maintenance</body></html>", content_type="text/html")
        if self.fault == "not_json":
            return web.Response(text="all is well")
        if self.fault == "empty_choices":
            return web.json_response({"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}})
        statuses = {"unauthorized": 401, "forbidden": 403, "not_found": 404, "rate_limited": 429, "server_error": 500}
        if self.fault in statuses:
            return _error(statuses[self.fault], self.fault, headers)
        return None

    def _refuse(self, request: web.Request, body: Mapping[str, Any]) -> web.Response | None:
        if "disconnect" in self.breaks and self._was_left:
            return _error(500, "the engine loop is dead")
        if "history" in self.breaks and any(m["role"] == "assistant" for m in body.get("messages", ())):
            return _error(400, "conversation roles must alternate")
        if "model" not in self.ignores and body.get("model") != MODEL:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        if "bad_requests" not in self.ignores and body.get("max_tokens", 1) < 1:
            return _error(400, "max_tokens must be at least 1")
        if "context" not in self.ignores and prompt_tokens(body) + 1 > self.max_context:
            return _error(400, "the prompt is longer than the context")
        asked = {"logprobs": "logprobs", "response_format": "json", "tools": "tools", "ignore_eos": "ignore_eos"}
        lacking = next((offer for key, offer in asked.items() if key in body and offer not in self.offers), None)
        if request.path.endswith("/v1/completions") and "completions" not in self.offers:
            return _error(404, "no such route")
        return _error(400, f"{lacking} is not supported") if lacking else None

    def _text(self, body: Mapping[str, Any]) -> tuple[list[str], str]:
        if "response_format" in body:
            return ['{"colour": "green"}'], "stop"
        pieces = words_of(self.answer(body))
        limit = body.get("max_tokens", 1000) if "max_tokens" not in self.ignores else 1000
        reason = "stop" if len(pieces) <= limit and self.ends else "length"
        text = "".join(pieces[:limit])
        for stop in (body.get("stop") or ()) if "stop" not in self.ignores else ():
            if stop in text:
                text, reason = text[: text.index(stop)], "stop"
        return words_of(text), reason

    async def _answer(self, request: web.Request, body: Mapping[str, Any]) -> web.StreamResponse:
        pieces, reason = self._text(body)
        usage = {"prompt_tokens": prompt_tokens(body, "system" in self.ignores), "completion_tokens": len(pieces)}
        usage["total_tokens"] = sum(usage.values())
        if body.get("stream"):
            return await self._stream(request, body, pieces, reason, usage)
        await asyncio.sleep(self.latency_s)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if "tools" in body:
            message |= {
                "content": None,
                "tool_calls": [{"function": {"name": "paint", "arguments": '{"colour": "green"}'}}],
            }
        choice: dict[str, Any] = {"index": 0, "message": message, "text": "".join(pieces), "finish_reason": reason}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": p, "logprob": -0.5} for p in pieces]}
        named = {"id": "fake-1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return web.json_response({**named, "choices": [choice], "usage": usage})

    async def _stream(
        self,
        request: web.Request,
        body: Mapping[str, Any],
        pieces: list[str],
        reason: str,
        usage: Mapping[str, int],
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: Mapping[str, Any]) -> None:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        faulty = self.fault if self.well_first < len(self.bodies) <= self.faulty else "none"
        if self.role_chunk_first:
            await send({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(self.first_token_s)
        if self.reasoning:
            await send({"choices": [{"index": 0, "delta": {"reasoning_content": self.reasoning}}]})
        for number, piece in enumerate(pieces[: -1 if "stream_text" in self.breaks else None]):
            if number:
                await asyncio.sleep(1.0 if faulty == "slow_drip" else self.token_s)
            if number == len(pieces) // 2 and faulty in ("cut_stream", "error_in_stream", "no_finish"):
                if faulty == "error_in_stream":
                    await send({"error": {"message": "the engine died", "code": 500}})
                elif faulty == "cut_stream" and request.transport is not None:
                    request.transport.abort()
                return response
            await send({"choices": [{"index": 0, "delta": {"content": piece}, "text": piece}]})
        await send({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if (body.get("stream_options") or {}).get("include_usage") and "usage_in_stream" not in self.ignores:
            await send({"choices": [], "usage": dict(usage)})
        with contextlib.suppress(ConnectionResetError):
            await response.write(b"data: [DONE]\n\n")
        return response


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def last_user(body: Mapping[str, Any]) -> str:
    """What was asked last."""
    if "prompt" in body:
        return str(body["prompt"])
    return str(body["messages"][-1]["content"])


def prompt_tokens(body: Mapping[str, Any], drops_system: bool = False) -> int:
    """One token a word, four for every message's frame."""
    if "prompt" in body:
        return len(str(body["prompt"]).split())
    kept = [m for m in body["messages"] if not (drops_system and m["role"] == "system")]
    return sum(len(m["content"].split()) + 4 for m in kept)
