"""An OpenAI-compatible client that measures: exact concurrency, bounded retries, and the times of every chunk."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from modelops_dagster.domain.gauntlet.completion import Completion, ErrorClass
from modelops_dagster.domain.gauntlet.contract import HttpAnswer

Api = Literal["chat", "completions"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
RETRIED: frozenset[ErrorClass] = frozenset({"connection", "rate_limited", "server_error", "cut_stream", "timeout"})
MOST_TIMEOUTS = 2
"""Attempts of one request that may time out: a hung endpoint costs a full attempt timeout each."""
BACKOFF_S = 0.25
LONGEST_WAIT_S = 30.0
_SHOWN_CHARACTERS = 300


def base_url(url: str) -> str:
    """The base URL that ends in /v1 (or what the user gave), from a base URL or a full path to one of the two routes.

    Raises:
        ValueError: not an http(s) URL.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/")
    for route in PATHS.values():
        path = path.removesuffix(route)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


class RetryBudget:
    """Retries all requests of one suite share, so that a sick endpoint is not asked forever."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        self.left -= 1
        return self.left >= 0


@dataclass(slots=True)
class _Stream:
    """What is gathered while chunks arrive. Times are absolute seconds of the monotonic clock."""

    text: list[str]
    reasoning: list[str]
    arrivals: list[float]
    first_chunk: float | None = None
    first_content: float | None = None
    last_chunk: float | None = None
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
        self.last_chunk = now
        self.first_chunk = self.first_chunk or now
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


class InferenceClient:
    """One connection pool for one endpoint. Use it as an asynchronous context manager.

    Exactly `concurrency` requests are in flight while at least so many wait; a request that backs off keeps its slot.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int,
        attempt_timeout_s: float = 60,
        retries: int = 3,
        budget: RetryBudget | None = None,
        api_key: str | None = None,
    ) -> None:
        self.url = base_url(url)
        self.concurrency = concurrency
        self.attempt_timeout_s = attempt_timeout_s
        self.retries = retries
        self._budget = budget or RetryBudget(1_000_000)
        self.api_key = api_key
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._slots = asyncio.Semaphore(concurrency)
        self._in_flight = 0
        self._since = 0.0
        self._busy_s = 0.0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, self.attempt_timeout_s)),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def inference_seconds(self) -> float:
        """Wall time so far during which at least one request was in flight."""
        return self._busy_s + (time.perf_counter() - self._since if self._in_flight else 0.0)

    async def complete(self, body: Mapping[str, Any], *, api: Api = "chat") -> Completion:
        """Ask once, with retries. Never raises for what the endpoint does: the record says what went wrong."""
        queued = time.perf_counter()
        async with self._slots:
            waited_ms = (time.perf_counter() - queued) * 1000
            timeouts = attempt = 0
            while True:
                attempt += 1
                got, retry_after = await self._attempt(body, api)
                timeouts += got.error == "timeout"
                stop = got.error not in RETRIED or attempt > self.retries or timeouts >= MOST_TIMEOUTS
                pause = retry_after if retry_after is not None else BACKOFF_S * 2 ** (attempt - 1)
                if stop or pause > LONGEST_WAIT_S or not self._budget.spend():
                    return replace(got, attempts=attempt, client_queue_ms=waited_ms)
                spread = 1.0 if retry_after is not None else random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
                await asyncio.sleep(pause * spread)

    async def ask_plain(self, method: str, url: str, body: object = None) -> HttpAnswer:
        """One request outside the completion routes. Status 0 when there was no answer in time."""
        session = self._open()
        limit = aiohttp.ClientTimeout(total=self.attempt_timeout_s)
        async with self._slots:
            try:
                with self._flight():
                    async with session.request(method, url, json=body, timeout=limit) as response:
                        return HttpAnswer(response.status, _parsed(await response.read()))
            except TimeoutError:
                return HttpAnswer(0, None, "timeout", f"no answer in {self.attempt_timeout_s:g} s")
            except (aiohttp.ClientError, OSError) as error:
                return HttpAnswer(0, None, "connection", _brief(f"{type(error).__name__}: {error}"))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("InferenceClient is used outside its `async with` block")
        return self._session

    def _flight(self) -> "_Flight":
        return _Flight(self)

    def _enter_flight(self) -> None:
        if self._in_flight == 0:
            self._since = time.perf_counter()
        self._in_flight += 1

    def _leave_flight(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._busy_s += time.perf_counter() - self._since

    async def _attempt(self, body: Mapping[str, Any], api: Api) -> tuple[Completion, float | None]:
        session = self._open()
        try:
            with self._flight():
                async with asyncio.timeout(self.attempt_timeout_s):
                    started = time.perf_counter()
                    async with session.post(self.url + PATHS[api], json=body) as response:
                        if response.status != 200:
                            return await _refused(response), _retry_after(response.headers)
                        if body.get("stream"):
                            return await _read_stream(response, started), None
                        return _read_whole(await response.read(), started), None
        except TimeoutError:
            return Completion(error="timeout", error_detail=f"no complete answer in {self.attempt_timeout_s:g} s"), None
        except aiohttp.ClientPayloadError as error:
            return Completion(error="cut_stream", error_detail=_brief(str(error))), None
        except (aiohttp.ClientError, OSError) as error:
            return Completion(error="connection", error_detail=_brief(f"{type(error).__name__}: {error}")), None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            detail = _brief(f"JSON of an unexpected shape: {type(error).__name__} {error}")
            return Completion(status=200, error="not_json", error_detail=detail), None


class _Flight:
    """Counts a request as in flight while the block runs, however it ends."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client._enter_flight()

    def __exit__(self, *_: object) -> None:
        self._client._leave_flight()


def _brief(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _whole_characters(text: str) -> str:
    """Half of a surrogate pair cannot be stored: it becomes U+FFFD, which the contract suite then finds."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
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


async def _refused(response: aiohttp.ClientResponse) -> Completion:
    status, raw = response.status, await response.read()
    error: ErrorClass = "refused_request"
    if status in (401, 403):
        error = "unauthorized"
    elif status == 404:
        error = "not_found"
    elif status == 429:
        error = "rate_limited"
    elif status >= 500 or status < 400:
        error = "server_error"
    parsed = _parsed(raw)
    said = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    said = said.get("message", said) if isinstance(said, dict) else said
    detail = _brief(str(said) if said else raw[:2000].decode(errors="replace"))
    return Completion(status=status, error=error, error_detail=f"{status} {detail}".strip())


def _not_json(raw: bytes) -> Completion:
    head = raw[:200].decode(errors="replace").strip()
    error: ErrorClass = "html" if head.startswith("<") else "not_json"
    return Completion(status=200, error=error, error_detail=_brief(f"the answer is not JSON: {head[:80]!r}"))


def _read_whole(raw: bytes, started: float) -> Completion:
    took_ms = (time.perf_counter() - started) * 1000
    parsed = _parsed(raw)
    if not isinstance(parsed, dict):
        return _not_json(raw)
    choices = parsed.get("choices")
    if not choices:
        error: ErrorClass = "server_error" if parsed.get("error") else "empty_choices"
        return Completion(
            status=200, error=error, error_detail=_brief(str(parsed.get("error") or "no choices")), raw=parsed
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


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[bytes, float]]:
    """The lines of a server-sent stream with the time each arrived."""
    rest = b""
    async for block in response.content.iter_any():
        now = time.perf_counter()
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.strip(), now
    if rest.strip():
        yield rest.strip(), time.perf_counter()


async def _read_stream(response: aiohttp.ClientResponse, started: float) -> Completion:
    """Read server-sent events to their end. An answer that is no stream is read as a whole."""
    seen = _Stream([], [], [])
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
        event = _parsed(payload)
        if isinstance(event, dict):
            seen.take(event, now)
    if seen.first_chunk is None and seen.error is None and other:
        return _read_whole(b"\n".join(other), started)
    return _streamed(seen, started)


def _streamed(seen: _Stream, started: float) -> Completion:
    def since(moment: float | None) -> float | None:
        return None if moment is None else (moment - started) * 1000

    error: ErrorClass | None = None
    detail = ""
    if seen.error is not None:
        error, detail = "server_error", seen.error
    elif seen.first_chunk is None:
        error, detail = "empty_choices", "the stream held no choices"
    elif seen.finish_reason is None and not seen.is_done:
        error, detail = "cut_stream", f"the stream ended after {len(seen.arrivals)} chunks without a finish reason"
    usage = seen.usage or {}
    return Completion(
        text=_whole_characters("".join(seen.text)),
        reasoning=_whole_characters("".join(seen.reasoning)),
        finish_reason=seen.finish_reason,
        status=200,
        error=error,
        error_detail=detail,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        first_chunk_ms=since(seen.first_chunk),
        ttft_ms=since(seen.arrivals[0]) if seen.arrivals else None,
        ttfot_ms=since(seen.first_content),
        itl_ms=tuple((b - a) * 1000 for a, b in zip(seen.arrivals, seen.arrivals[1:], strict=False)),
        e2el_ms=since(seen.last_chunk),
    )
