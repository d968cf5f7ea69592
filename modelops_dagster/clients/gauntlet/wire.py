"""What an endpoint sends, read into a completion: whole bodies, server-sent streams, refusals, and all the rest."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any

import aiohttp
import orjson

from modelops_dagster.domain.gauntlet.completion import Completion, ErrorClass

_SHOWN_CHARACTERS = 300
MOST_BYTES = 32 * 1024 * 1024
"""Of one answer; an endpoint that sends more is not answering."""


@dataclass(slots=True)
class Stream:
    """What is gathered while chunks arrive. Times are seconds of one clock."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    """Of chunks with content or reasoning."""
    chunks: list[float] = field(default_factory=list)
    """Of all chunks with choices."""
    first_content: float | None = None
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    is_done: bool = False
    error: str | None = None

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """Account for one server-sent event."""
        if event.get("usage"):
            self.usage = event["usage"]
        if event.get("error"):
            self.error = str(event["error"])[:_SHOWN_CHARACTERS]
        choices = event.get("choices") or ()
        if not choices:
            return
        self.chunks.append(now)
        choice = choices[0]
        delta = choice.get("delta") or choice
        content = delta.get("content") or choice.get("text") or ""
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        if content or thought:
            self.arrivals.append(now)
        if content:
            self.first_content = self.first_content or now
            self.text.append(content)
        if thought:
            self.reasoning.append(thought)
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def completion(self, started: float) -> Completion:
        """The completion, at the end of the stream; its times count from `started`."""

        def since(moment: float | None) -> float | None:
            return None if moment is None else (moment - started) * 1000

        error: ErrorClass | None = None
        detail = ""
        if self.error is not None:
            error, detail = "server_error", self.error
        elif not self.chunks:
            error, detail = "empty_choices", "the stream held no choices"
        elif self.finish_reason is None and not self.is_done:
            error, detail = "cut_stream", f"the stream ended after {len(self.arrivals)} chunks without a finish reason"
        usage = self.usage or {}
        return Completion(
            text=_whole_characters("".join(self.text)),
            reasoning=_whole_characters("".join(self.reasoning)),
            finish_reason=self.finish_reason,
            status=200,
            error=error,
            error_detail=detail,
            tokens_in=_count(usage.get("prompt_tokens")),
            tokens_out=_count(usage.get("completion_tokens")),
            first_chunk_ms=since(self.chunks[0]) if self.chunks else None,
            ttft_ms=since(self.arrivals[0]) if self.arrivals else None,
            ttfot_ms=since(self.first_content),
            itl_ms=_gaps_ms(self.arrivals),
            chunk_gaps_ms=_gaps_ms(self.chunks),
            e2el_ms=since(self.chunks[-1]) if self.chunks else None,
        )


def _gaps_ms(moments: Sequence[float]) -> tuple[float, ...]:
    return tuple((b - a) * 1000 for a, b in pairwise(moments))


def brief(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole_characters(text: str) -> str:
    """Half of a surrogate pair cannot be stored: it becomes U+FFFD, which the contract suite then finds."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_bytes(value: object) -> bytes:
    """JSON as it is sent. What orjson refuses (half surrogate pairs, whole numbers beyond 64 bits) is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


def parsed_json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return _lenient_json(raw)


def _lenient_json(raw: bytes) -> Any:
    """NaN and half surrogate pairs, which engines do send, are no JSON to orjson."""
    try:
        return json.loads(raw)
    except ValueError:
        return None


def wanted_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks us to wait (a number or an HTTP date), or None."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


async def refused(response: aiohttp.ClientResponse) -> Completion:
    status, raw = response.status, await read_body(response)
    error: ErrorClass = "refused_request"
    if status in (401, 403):
        error = "unauthorized"
    elif status == 404:
        error = "not_found"
    elif status == 429:
        error = "rate_limited"
    elif status >= 500 or status < 400:
        error = "server_error"
    parsed = parsed_json(raw)
    said = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    said = said.get("message", said) if isinstance(said, dict) else said
    detail = brief(str(said) if said else raw[:2000].decode(errors="replace"))
    return Completion(status=status, error=error, error_detail=f"{status} {detail}".strip())


def _not_json(raw: bytes) -> Completion:
    head = raw[:200].decode(errors="replace").strip()
    error: ErrorClass = "html" if head.startswith("<") else "not_json"
    return Completion(status=200, error=error, error_detail=brief(f"the answer is not JSON: {head[:80]!r}"))


def read_whole(raw: bytes, started: float) -> Completion:
    took_ms = (time.perf_counter() - started) * 1000
    parsed = parsed_json(raw)
    if not isinstance(parsed, dict):
        return _not_json(raw)
    choices = parsed.get("choices")
    if not choices:
        error: ErrorClass = "server_error" if parsed.get("error") else "empty_choices"
        return Completion(
            status=200, error=error, error_detail=brief(str(parsed.get("error") or "no choices")), raw=parsed
        )
    choice = choices[0]
    message = choice.get("message") or {}
    usage = parsed.get("usage") or {}
    content = (choice.get("logprobs") or {}).get("content") or ()
    calls = [c.get("function") or {} for c in message.get("tool_calls") or ()]
    return Completion(
        text=_whole_characters(message.get("content") or choice.get("text") or ""),
        reasoning=_whole_characters(message.get("reasoning_content") or message.get("reasoning") or ""),
        finish_reason=choice.get("finish_reason"),
        status=200,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        e2el_ms=took_ms,
        logprobs=tuple(float(t["logprob"]) for t in content if t.get("logprob") is not None),
        tool_calls=tuple((str(c.get("name")), str(c.get("arguments"))) for c in calls),
        raw=parsed,
    )


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The whole body.

    Raises:
        ValueError: it is longer than any answer.
    """
    if response.content_length is not None and response.content_length <= MOST_BYTES:
        return await response.read()
    blocks, size = [], 0
    async for block in response.content.iter_any():
        blocks.append(block)
        size = _counted(size, block)
    return b"".join(blocks)


def _counted(size: int, block: bytes) -> int:
    if size + len(block) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return size + len(block)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[bytes, float]]:
    """The lines of a server-sent stream with the time each arrived."""
    rest, size = b"", 0
    async for block in response.content.iter_any():
        size = _counted(size, block)
        now = time.perf_counter()
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.strip(), now
    if rest.strip():
        yield rest.strip(), time.perf_counter()


async def read_stream(response: aiohttp.ClientResponse, started: float) -> Completion:
    """Read server-sent events to their end. An answer that is no stream is read as a whole."""
    seen = Stream()
    other: list[bytes] = []
    async for line, now in _events(response):
        if not line.startswith(b"data:"):
            if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                other.append(line)
            continue
        payload = line[5:].strip()
        if payload == b"[DONE]":
            seen.is_done = True
            break
        event = parsed_json(payload)
        if isinstance(event, dict):
            seen.take(event, now)
    if not seen.chunks and seen.error is None and other:
        return read_whole(b"\n".join(other), started)
    return seen.completion(started)
