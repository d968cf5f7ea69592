"""The HTTP routes."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse

from . import metrics
from .generation import Engine
from .jobs import Job, Piece, Token
from .protocol import (
    ChatRequest,
    CompletionRequest,
    Refused,
    Sampling,
    TokenizeRequest,
    envelope,
    event,
    usage,
)

DEFAULT_COMPLETION_TOKENS = 16  # as the OpenAI API has it


class Answer:
    """One job on its way through the engine, and what it gave so far. Made and read on the event loop."""

    def __init__(self, **job: Any) -> None:
        self.job = Job(post=self._post, **job)
        self.text = ""
        self.tokens: list[Token] = []
        self.finish_reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()

    def _post(self, piece: Piece) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

    @property
    def written(self) -> int:
        """Tokens, without an echoed prompt."""
        return len(self.tokens) - (len(self.job.prompt) if self.job.echo else 0)

    async def pieces(self) -> AsyncIterator[Piece]:
        """The pieces until the last one.

        Raises:
            Refused: generation failed, or the engine is stopping.
        """
        while self.finish_reason is None:
            piece = await self._pieces.get()
            if piece.error:
                raise Refused(piece.error, status=500)
            if piece.finish_reason == "cancelled":
                raise Refused("the engine is stopping.", status=503)
            self.text += piece.text
            self.tokens += piece.tokens
            self.finish_reason = piece.finish_reason
            yield piece


class Api:
    """Routes over one engine under one served model name."""

    def __init__(self, engine: Engine, served_model_name: str) -> None:
        self._engine = engine
        self._name = served_model_name
        self._started = int(time.time())

    def app(self) -> FastAPI:
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.add_exception_handler(Refused, _refused)
        app.add_exception_handler(RequestValidationError, _invalid)
        app.add_api_route("/health", self.health, methods=["GET"])
        app.add_api_route("/metrics", self.metrics, methods=["GET"])
        app.add_api_route("/tokenize", self.tokenize, methods=["POST"])
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/completions", self.completions, methods=["POST"], response_model=None)
        return app

    async def health(self) -> Response:
        return Response(status_code=200 if self._engine.ready else 503)

    async def metrics(self) -> Response:
        return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    async def models(self) -> dict[str, Any]:
        self._require_ready()
        entry = {"id": self._name, "object": "model", "created": self._started, "owned_by": "transformers"}
        entry |= {"root": self._engine.checkpoint, "max_model_len": self._engine.max_context}
        return {"object": "list", "data": [entry]}

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        self._check(body)
        messages = [message.for_template() for message in body.messages]
        prompt = self._engine.render_chat(messages, body.chat_template_kwargs, body.tools or None)
        asked = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        if asked == 0:
            raise Refused("max_tokens must be at least 1.", param="max_tokens")
        answers = self._answers(body, prompt, asked, logprobs=body.wanted_logprobs, param="messages")
        for answer in answers:
            self._engine.submit(answer.job)
        request_id = f"chatcmpl-{uuid.uuid4().hex}"
        if body.stream:
            return _stream(self._chat_chunks(answers, request_id, body), answers)
        await _complete(answers, request)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text},
                "finish_reason": answer.finish_reason,
                "logprobs": self._chat_logprobs(answer.tokens) if body.logprobs else None,
            }
            for index, answer in enumerate(answers)
        ]
        document = envelope(request_id, "chat.completion", self._name, choices)
        return JSONResponse({**document, "usage": _total(answers, len(prompt))})

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        self._check(body)
        asked = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
        if asked == 0 and not body.echo:
            raise Refused("max_tokens must be at least 1, unless echo is set.", param="max_tokens")
        prompts = [self._engine.encode(p) if isinstance(p, str) else p for p in body.prompts]
        answers = [
            answer
            for prompt in prompts
            for answer in self._answers(body, prompt, asked, logprobs=body.logprobs, param="prompt")
        ]
        read = sum(len(prompt) for prompt in prompts)
        for answer in answers:
            answer.job.echo = body.echo
            self._engine.submit(answer.job)
        request_id = f"cmpl-{uuid.uuid4().hex}"
        if body.stream:
            return _stream(self._text_chunks(answers, request_id, body, read), answers)
        await _complete(answers, request)
        choices = [
            {
                "index": index,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "logprobs": self._text_logprobs(answer.tokens) if body.logprobs is not None else None,
            }
            for index, answer in enumerate(answers)
        ]
        document = envelope(request_id, "text_completion", self._name, choices)
        return JSONResponse({**document, "usage": _total(answers, read)})

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        self._require_ready()
        if body.messages is not None:
            tokens = self._engine.render_chat([message.for_template() for message in body.messages], {})
        elif body.prompt is not None:
            tokens = self._engine.encode(body.prompt, special=body.add_special_tokens)
        else:
            raise Refused("/tokenize needs prompt or messages.", param="prompt")
        return {"count": len(tokens), "max_model_len": self._engine.max_context, "tokens": tokens}

    def _require_ready(self) -> None:
        if not self._engine.ready:
            raise Refused("the model is loading.", status=503)

    def _check(self, body: Sampling) -> None:
        self._require_ready()
        if body.model != self._name:
            raise Refused(
                f"The model {body.model!r} does not exist; this engine serves {self._name!r}.",
                param="model",
                status=404,
                code="model_not_found",
            )
        body.refuse_unsupported()
        if body.stream_options is not None and not body.stream:
            raise Refused("stream_options needs stream: true.", param="stream_options")

    def _answers(
        self, body: Sampling, prompt: list[int], asked: int | None, *, logprobs: int | None, param: str
    ) -> list[Answer]:
        """One answer per choice. Where a seed is given, each choice has its own, for they shall differ."""
        room = self._engine.max_context - len(prompt)
        if not prompt:
            raise Refused(f"{param} has no tokens.", param=param)
        if room < 1:
            raise Refused(
                f"This model's maximum context length is {self._engine.max_context} tokens; "
                f"the prompt has {len(prompt)} and leaves no room for an answer.",
                param=param,
                code="context_length_exceeded",
            )
        self._engine.require_known(prompt)
        self._engine.require_known(list(body.logit_bias or ()), param="logit_bias")
        schema = body.schema_text
        if schema is not None:
            self._engine.require_schema(schema)
        return [
            Answer(
                prompt=prompt,
                max_tokens=room if asked is None else min(asked, room),
                sampling=body.sampling(self._engine.defaults),
                seed=None if body.seed is None else body.seed + index,
                stops=body.stops,
                logprobs=logprobs,
                ignore_eos=body.ignore_eos,
                schema=schema,
                presence_penalty=body.presence_penalty or 0.0,
                frequency_penalty=body.frequency_penalty or 0.0,
                logit_bias=body.logit_bias or {},
            )
            for index in range(body.n or 1)
        ]

    async def _chat_chunks(
        self, answers: Sequence[Answer], request_id: str, body: ChatRequest
    ) -> AsyncIterator[dict[str, Any]]:
        def chunk(index: int, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
            choice = {"index": index, "delta": delta, "finish_reason": None, **more}
            return envelope(request_id, "chat.completion.chunk", self._name, [choice])

        for index, answer in enumerate(answers):
            yield chunk(index, {"role": "assistant", "content": ""})
            unseen: list[Token] = []
            async for piece in answer.pieces():
                unseen += piece.tokens
                if piece.text or (body.logprobs and piece.finish_reason and unseen):
                    scores = {"logprobs": self._chat_logprobs(unseen)} if body.logprobs else {}
                    unseen = []
                    yield chunk(index, {"content": piece.text}, **scores)
            yield chunk(index, {}, finish_reason=answer.finish_reason)
        if body.include_usage:
            spent = _total(answers, len(answers[0].job.prompt))
            yield {**envelope(request_id, "chat.completion.chunk", self._name, []), "usage": spent}

    async def _text_chunks(
        self, answers: Sequence[Answer], request_id: str, body: CompletionRequest, read: int
    ) -> AsyncIterator[dict[str, Any]]:
        for index, answer in enumerate(answers):
            unseen: list[Token] = []
            async for piece in answer.pieces():
                unseen += piece.tokens
                if not piece.text and not piece.finish_reason:
                    continue
                choice: dict[str, Any] = {"index": index, "text": piece.text, "finish_reason": piece.finish_reason}
                if body.logprobs is not None:
                    choice["logprobs"] = self._text_logprobs(unseen)
                unseen = []
                yield envelope(request_id, "text_completion", self._name, [choice])
        if body.include_usage:
            yield {**envelope(request_id, "text_completion", self._name, []), "usage": _total(answers, read)}

    def _token_text(self, token_id: int) -> str:
        return self._engine.decode([token_id], special=True)

    def _chat_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
            text = self._token_text(token_id)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        return {
            "content": [
                {**entry(token.token_id, token.logprob), "top_logprobs": [entry(i, value) for i, value in token.top]}
                for token in tokens
            ]
        }

    def _text_logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        texts = [self._token_text(token.token_id) for token in tokens]
        offsets = [0]
        for text in texts[:-1]:
            offsets.append(offsets[-1] + len(text))
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self._token_text(i): value for i, value in token.top} if token.logprob is not None else None
                for token in tokens
            ],
            "text_offset": offsets[: len(texts)],
        }


def _total(answers: Sequence[Answer], prompt_tokens: int) -> dict[str, int]:
    """A prompt counts once, however many choices it has."""
    return usage(prompt_tokens, sum(answer.written for answer in answers))


async def _complete(answers: Sequence[Answer], request: Request) -> None:
    """Wait for whole answers; a client that goes away cancels what it asked for."""
    async with _cancelled_when_gone(answers, request):
        for answer in answers:
            async for _ in answer.pieces():
                continue


@asynccontextmanager
async def _cancelled_when_gone(answers: Sequence[Answer], request: Request) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        for answer in answers:
            answer.job.cancelled.set()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        for answer in answers:
            answer.job.cancelled.set()


def _stream(chunks: AsyncIterator[dict[str, Any]], answers: Sequence[Answer]) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        try:
            async for chunk in chunks:
                yield event(chunk)
            yield "data: [DONE]\n\n"
        except Refused as error:
            yield event(error.body())
        finally:  # also when the client has gone
            for answer in answers:
                answer.job.cancelled.set()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101  (registered for it)
    return JSONResponse(error.body(), status_code=error.status)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return JSONResponse(Refused(f"{where}: {first['msg']}", param=where).body(), status_code=400)
