"""An OpenAI-compatible client that measures: exact concurrency, bounded retries, and the times of every chunk."""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import aiohttp

from modelops_dagster.clients.gauntlet.limits import Limits
from modelops_dagster.clients.gauntlet.wire import (
    brief,
    json_bytes,
    parsed_json,
    read_body,
    read_stream,
    read_whole,
    refused,
    wanted_pause,
)
from modelops_dagster.domain.gauntlet.completion import Completion, ErrorClass
from modelops_dagster.domain.gauntlet.contract import HttpAnswer
from modelops_dagster.domain.gauntlet.interceptors import Chain, amended
from modelops_dagster.domain.openai_urls import PATHS, Api, base_url

RETRIED: frozenset[ErrorClass] = frozenset({"connection", "rate_limited", "server_error", "cut_stream", "timeout"})
MOST_TIMEOUTS = 2
"""Attempts of one request that may time out: a hung endpoint costs a full attempt timeout each."""
BACKOFF_S = 0.25
JSON_BODY = {"Content-Type": "application/json"}
LONGEST_WAIT_S = 30.0


class RetryBudget:
    """Retries all requests of one suite share, so that a sick endpoint is not asked forever."""

    def __init__(self, total: int) -> None:
        self.left = total

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        self.left -= 1
        return self.left >= 0


class InferenceClient:
    """One connection pool for one endpoint. Use it as an asynchronous context manager.

    Exactly `concurrency` requests are in flight while at least so many wait; a request that backs off keeps its slot.
    `transport` amends every request; a whole chain is run by `clients.gauntlet.adapter` around a client without one.
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
        transport: Chain | None = None,
    ) -> None:
        self.url = base_url(url)
        self.concurrency = concurrency
        self.attempt_timeout_s = attempt_timeout_s
        self.retries = retries
        self._budget = budget or RetryBudget(1_000_000)
        self.api_key = api_key
        self.headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.transport = transport or Chain()
        self._slots = asyncio.Semaphore(concurrency)
        self._in_flight = 0
        self._since = 0.0
        self._busy_s = 0.0
        self._limits = Limits(attempt_timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, self.attempt_timeout_s)),
        )
        self._limits.watch()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._limits.stop()
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def inference_seconds(self) -> float:
        """Wall time so far during which at least one request was in flight."""
        return self._busy_s + (time.perf_counter() - self._since if self._in_flight else 0.0)

    def route(self, api: Api) -> str:
        """The full URL of a route."""
        return self.url + PATHS[api]

    async def complete(
        self, body: Mapping[str, Any], *, api: Api = "chat", headers: Mapping[str, str] | None = None
    ) -> Completion:
        """Ask once, with retries. Never raises for what the endpoint does: the record says what went wrong.

        `headers` are sent instead of the client's own.
        """
        body, sent = amended(self.transport, body, self.headers if headers is None else headers)
        queued = time.perf_counter()
        must_wait = self._slots.locked()
        async with self._slots:
            waited_ms = (time.perf_counter() - queued) * 1000 if must_wait else 0.0
            timeouts = attempt = 0
            while True:
                attempt += 1
                got, retry_after = await self._attempt(body, api, sent)
                timeouts += got.error == "timeout"
                stop = got.error not in RETRIED or attempt > self.retries or timeouts >= MOST_TIMEOUTS
                pause = retry_after if retry_after is not None else BACKOFF_S * 2 ** (attempt - 1)
                if attempt == 1 and got.error is None and not must_wait:
                    return got
                if stop or pause > LONGEST_WAIT_S or not self._budget.spend():
                    return replace(got, attempts=attempt, client_queue_ms=waited_ms)
                spread = 1.0 if retry_after is not None else random.uniform(0.75, 1.25)  # noqa: S311 - not a secret
                await asyncio.sleep(pause * spread)

    async def ask_plain(self, method: str, url: str, body: object = None) -> HttpAnswer:
        """One request outside the completion routes. Status 0 when there was no answer in time."""
        session = self._open()
        asks = isinstance(body, Mapping) and url.endswith(tuple(PATHS.values()))
        amended_body, headers = amended(self.transport, body if isinstance(body, Mapping) else {}, self.headers)
        sent = amended_body if asks else body  # other routes know nothing of what completions take
        limit = aiohttp.ClientTimeout(total=self.attempt_timeout_s)
        async with self._slots:
            try:
                with self._flight():
                    async with session.request(method, url, json=sent, headers=headers, timeout=limit) as response:
                        return HttpAnswer(response.status, parsed_json(await read_body(response)))
            except TimeoutError:
                return HttpAnswer(0, None, "timeout", f"no answer in {self.attempt_timeout_s:g} s")
            except (aiohttp.ClientError, OSError) as error:
                return HttpAnswer(0, None, "connection", brief(f"{type(error).__name__}: {error}"))
            except ValueError as error:
                return HttpAnswer(0, None, "not_json", brief(str(error)))

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

    async def _attempt(
        self, body: Mapping[str, Any], api: Api, headers: dict[str, str]
    ) -> tuple[Completion, float | None]:
        session = self._open()
        try:
            raw = json_bytes(body)
            with self._flight():
                async with self._limits.limit():
                    started = time.perf_counter()
                    async with session.post(self.route(api), data=raw, headers=JSON_BODY | headers) as response:
                        if response.status != 200:
                            return await refused(response), wanted_pause(response.headers)
                        if body.get("stream"):
                            return await read_stream(response, started), None
                        return read_whole(await read_body(response), started), None
        except TimeoutError:
            return Completion(error="timeout", error_detail=f"no complete answer in {self.attempt_timeout_s:g} s"), None
        except aiohttp.ClientPayloadError as error:
            return Completion(error="cut_stream", error_detail=brief(str(error))), None
        except (aiohttp.ClientError, OSError) as error:
            return Completion(error="connection", error_detail=brief(f"{type(error).__name__}: {error}")), None
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            detail = brief(f"JSON of an unexpected shape: {type(error).__name__} {error}")
            return Completion(status=200, error="not_json", error_detail=detail), None


class _Flight:
    """Counts a request as in flight while the block runs, however it ends."""

    def __init__(self, client: InferenceClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client._enter_flight()

    def __exit__(self, *_: object) -> None:
        self._client._leave_flight()
