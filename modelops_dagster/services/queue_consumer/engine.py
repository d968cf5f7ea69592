"""The engine in the same pod, and what its answer means for the request."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from modelops_dagster.domain.batch import BatchRequest

_LOOK_S = 1.0
_HEALTH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Answered:
    """It answered, if only that the request is wrong."""

    status: int
    body: Any


@dataclass(frozen=True)
class Busy:
    """It takes no request now; that is not the request's fault."""

    wait_s: float


@dataclass(frozen=True)
class Broke:
    """It failed over this request, which may be what made it fail."""

    said: str


class Engine:
    """An engine behind one address.

    Args:
        url: without /v1.
        health: the path that answers 200 while it can work.
        timeout_s: longest that one request may take.
        at_once: requests under way at the same time.
    """

    def __init__(self, url: str, health: str, timeout_s: float, at_once: int) -> None:
        self._url = url.rstrip("/")
        self._health = health
        limits = httpx.Limits(max_connections=at_once + 1, max_keepalive_connections=at_once + 1)
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=_HEALTH_TIMEOUT_S), limits=limits, trust_env=False
        )
        self._ready = False

    async def ready(self, stopping: asyncio.Event) -> bool:
        """Wait until it answers; at once when it did so last. False: `stopping` came first."""
        while not self._ready and not stopping.is_set():
            self._ready = await self._healthy()
            if not self._ready:
                await pause(_LOOK_S, stopping)
        return not stopping.is_set()

    async def ask(self, request: BatchRequest) -> Answered | Busy | Broke:
        """One request, once."""
        try:
            answer = await self._http.post(f"{self._url}{request.url}", json=request.body)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            self._ready = False  # it was gone before it could see the request
            return Busy(0.0)
        except httpx.HTTPError as error:
            self._ready = False
            return Broke(f"it gave no answer ({type(error).__name__})")
        wait = answer.headers.get("retry-after", "")
        if answer.status_code == 429 or (answer.status_code == 503 and wait):
            return Busy(float(wait) if wait.isdigit() else _LOOK_S)
        if answer.status_code >= 500:
            self._ready = False
            return Broke(f"it answered with HTTP {answer.status_code}")
        return Answered(answer.status_code, _body(answer))

    async def close(self) -> None:
        await self._http.aclose()

    async def _healthy(self) -> bool:
        try:
            answer = await self._http.get(f"{self._url}{self._health}", timeout=_HEALTH_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.is_success


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Wait, but not longer than until `stopping`."""
    try:
        await asyncio.wait_for(stopping.wait(), seconds)
    except TimeoutError:
        return


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text
