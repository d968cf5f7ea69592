"""A small OpenAI-compatible engine on loopback, with knobs: who answers, how fast, and how it fails."""

import asyncio
import json
import threading
from typing import Any, Self

from aiohttp import web


class FakeBackend:
    """Answers as `name`. Runs in a thread of its own; use as a context manager.

    Knobs, readable and settable while it runs: `fail_status` (answer every call with this status, and with
    `fail_message`), `token_delay_s` (pause before each streamed token), `break_stream_after` (cut the connection after
    so many tokens), `tokens` (how many a completion has), `hold_s` (pause before every answer), `break_answers` (cut
    the connection instead of an answer that is not streamed), `calls_tools` (name and arguments, as JSON, of each tool
    it calls when it is offered tools; in a stream its words come before them, as some models do, and arguments in
    pieces). `bodies` and `headers` hold what it received, `most_at_once` how many were held at the same time.
    """

    def __init__(self, name: str, *, tokens: int = 5, token_delay_s: float = 0.0) -> None:
        self.name = name
        self.tokens = tokens
        self.token_delay_s = token_delay_s
        self.fail_status: int | None = None
        self.fail_message = ""
        self.break_stream_after: int | None = None
        self.hold_s = 0.0
        self.break_answers = False
        self.calls_tools: tuple[tuple[str, str], ...] = ()
        self.most_at_once = 0
        self._at_once = 0
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completion)
        app.router.add_post("/v1/embeddings", self._embedding)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def _received(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.hold_s)
        finally:
            self._at_once -= 1
        if self.fail_status is not None:
            told = self.fail_message or f"engine trouble at {self.url}"
            error = {"message": told, "type": "server_error", "code": self.fail_status}
            raise _failure(self.fail_status, error)
        return body

    def _usage(self) -> dict[str, Any]:
        return {"prompt_tokens": 7, "completion_tokens": self.tokens, "total_tokens": 7 + self.tokens}

    def _words(self) -> list[str]:
        return [self.name, *(f" t{i}" for i in range(1, self.tokens))]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._received(request)
        if self.break_answers and not body.get("stream") and request.transport is not None:
            request.transport.close()
        calls = self._tool_calls() if body.get("tools") else []
        if body.get("stream"):
            deltas = [{"content": word} for word in self._words()] + [d for call in calls for d in _in_pieces(call)]
            choices = [{"delta": delta} for delta in deltas]
            reason = "tool_calls" if calls else "stop"
            return await self._stream(request, body, "chat.completion.chunk", choices, {"delta": {}}, reason)
        if calls:
            message = {"role": "assistant", "content": None, "tool_calls": calls}
            return web.json_response(
                self._reply(body, "chat.completion", {"message": message, "finish_reason": "tool_calls"})
            )
        message = {"role": "assistant", "content": "".join(self._words())}
        return web.json_response(self._reply(body, "chat.completion", {"message": message, "finish_reason": "stop"}))

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        body = await self._received(request)
        if body.get("stream"):
            words = [{"text": word} for word in self._words()]
            return await self._stream(request, body, "text_completion", words, {"text": ""})
        choice = {"text": "".join(self._words()), "finish_reason": "stop"}
        return web.json_response(self._reply(body, "text_completion", choice))

    async def _embedding(self, request: web.Request) -> web.StreamResponse:
        body = await self._received(request)
        data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    def _reply(self, body: dict[str, Any], kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "reply-1",
            "object": kind,
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, **choice}],
            "usage": self._usage(),
        }

    def _tool_calls(self) -> list[dict[str, Any]]:
        return [
            {"index": n, "id": f"call-{n + 1}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for n, (name, arguments) in enumerate(self.calls_tools)
        ]

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        kind: str,
        choices: list[dict[str, Any]],
        last: dict[str, Any],
        reason: str = "stop",
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: dict[str, Any]) -> None:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())

        base = {"id": "reply-1", "object": kind, "created": 1, "model": body["model"]}
        for number, choice in enumerate(choices):
            if self.break_stream_after == number:
                assert request.transport is not None
                request.transport.close()
                return response
            await asyncio.sleep(self.token_delay_s)
            await send({**base, "choices": [{"index": 0, "finish_reason": None, **choice}]})
        await send({**base, "choices": [{"index": 0, "finish_reason": reason, **last}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await send({**base, "choices": [], "usage": self._usage()})
        await response.write(b"data: [DONE]\n\n")
        return response


def _in_pieces(call: dict[str, Any]) -> list[dict[str, Any]]:
    """A call of a tool as engines stream it: first whose it is, then its arguments, a few characters at a time."""
    index, arguments = call["index"], call["function"]["arguments"]
    head = {**call, "function": {"name": call["function"]["name"], "arguments": ""}}
    parts = [arguments[at : at + 4] for at in range(0, len(arguments), 4)]
    pieces = [head, *({"index": index, "function": {"arguments": part}} for part in parts)]
    return [{"tool_calls": [piece]} for piece in pieces]


def _failure(status: int, error: dict[str, Any]) -> web.HTTPException:
    class Failure(web.HTTPException):
        status_code = status

    return Failure(text=json.dumps({"error": error}), content_type="application/json")
