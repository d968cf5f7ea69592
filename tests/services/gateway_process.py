"""The real gateway in a process of its own, the stores it follows, and load on it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from modelops_dagster.clients.calls import query_calls
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.gateway import Route, RouteTarget, with_targets
from tests.fakes.backend import FakeBackend
from tests.fakes.threads import UntilLeft

PROMPT = "a-prompt-that-nobody-may-find-again"
ALIAS = "acme/SmolLM2-135M-Instruct"
READY = re.compile(r"gateway: ready at (http://\S+)/v1 after ([0-9.]+) s")


class Gateway:
    """One gateway process and the stores it follows."""

    def __init__(
        self,
        home: Path,
        code: str = "from modelops_dagster.services.gateway.__main__ import main; main()",
        *,
        workers: int = 2,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.log = home / "gateway.log"
        self.routes = RouteStore(home / "gateway")
        self.keys = KeyStore(home / "gateway")
        self.url = ""
        self.given: list[str] = []
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MODELOPS_", "LITELLM_"))}
        # a database in the operator's shell is none of the gateway's
        environ |= {"MODELOPS_HOME": str(home), "MODELOPS_GATEWAY_PORT": str(port), "DATABASE_URL": "postgresql://x/y"}
        environ |= {"MODELOPS_GATEWAY_WORKERS": str(workers)} | dict(settings or {})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], env=environ, stdout=log, stderr=subprocess.STDOUT, cwd=home
            )

    def wait_ready(self) -> float:
        """Seconds the gateway says it took."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = READY.search(self.log.read_text())
            if found:
                self.url = found[1]
                GatewayClient(self.url).ready(10)
                return float(found[2])
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def key(self, *tags: str, models: tuple[str, ...] = ()) -> str:
        key, _ = self.keys.create("tester", tags=tags, models=models)
        self.given.append(key)
        return key

    def put(self, alias: str, *targets: RouteTarget) -> Route:
        old = self.routes.get(alias)
        made = with_targets(old, alias, targets, at=datetime.now(UTC))
        written = self.routes.put(made, old.version if old else 0)
        GatewayClient(self.url).visible(alias, written.version)
        return written

    def post(
        self, key: str | None, alias: str = ALIAS, path: str = "/v1/chat/completions", **more: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        content = (
            {"prompt": PROMPT} if path == "/v1/completions" else {"messages": [{"role": "user", "content": PROMPT}]}
        )
        body = {"model": alias, **content, **more.pop("body", {})}
        return httpx.post(f"{self.url}{path}", headers=headers | more.pop("headers", {}), json=body, timeout=30)

    def rows(self, call_id: str) -> list[dict[str, Any]]:
        """The logged rows of one call, as soon as there are any."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = [row for row in self.logged() if row["call_id"] == call_id and row["error"] != "Unfinished"]
            if found:
                return found
            time.sleep(0.1)
        return []

    def logged(self) -> list[dict[str, Any]]:
        """Every row that the call log shows now."""
        since = datetime.now(UTC) - timedelta(hours=1)
        return query_calls(self.home / "gateway/calls", "SELECT * FROM calls", since=since)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def target(backend: FakeBackend, *tags: str, name: str = "", weight: int = 1) -> RouteTarget:
    name = name or backend.name
    commit = (name.encode().hex() + "0" * 40)[:40]
    return RouteTarget(
        endpoint=name, url=backend.url, served_model_name=ALIAS, commit_hash=commit, weight=weight, tags=tags
    )


class Load(UntilLeft):
    """Three clients that stream without a pause, until it is left. `calls` holds (began, ended, what answered)."""

    def __init__(self, url: str, key: str, alias: str) -> None:
        super().__init__()
        self.calls: list[tuple[float, float, str]] = []
        self._url, self._key, self._alias = url, key, alias

    async def make_calls(self) -> None:
        async with httpx.AsyncClient(timeout=60, headers={"authorization": f"Bearer {self._key}"}) as client:
            await asyncio.gather(*(self._without_pause(client) for _ in range(3)))

    async def _without_pause(self, client: httpx.AsyncClient) -> None:
        while not self.over.is_set():
            await self._one(client)

    async def _one(self, client: httpx.AsyncClient) -> None:
        body = {"model": self._alias, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
        began = time.monotonic()
        try:
            answer = await client.post(f"{self._url}/v1/chat/completions", json=body)
            outcome = self._outcome(answer)
        except httpx.HTTPError as error:
            outcome = repr(error)
        self.calls.append((began, time.monotonic(), outcome))

    def _outcome(self, answer: httpx.Response) -> str:
        """Who answered; the whole text where it is no answer."""
        whole = answer.status_code == 200 and answer.text.rstrip().endswith("[DONE]")
        names = [name for name in ("alpha", "beta") if name in answer.text]
        return names[0] if whole and len(names) == 1 else answer.text


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def put(gateway: Gateway, alias: str, *targets: Any, **settings: Any) -> Route:
    """A route with settings, seen to be live in all workers."""
    made = gateway.put(alias, *targets)
    document = Route.model_validate({**made.model_dump(), **settings})
    written = gateway.routes.put(document, made.version)
    GatewayClient(gateway.url).visible(alias, written.version)
    return written


def ask_many(
    gateway: Gateway,
    key: str,
    alias: str,
    count: int,
    each: Callable[[int], Mapping[str, str]] = lambda _: {},
    **headers: str,
) -> list[httpx.Response]:
    """So many calls, 16 at once on connections of their own, so that both workers get some.

    `each` gives further headers of the call of that number.
    """

    async def run() -> list[httpx.Response]:
        body = {"model": alias, "messages": [{"role": "user", "content": PROMPT}]}
        left, found = iter(range(count)), list[httpx.Response]()

        async def work() -> None:
            async with httpx.AsyncClient(timeout=120) as client:
                for number in left:
                    told = {"authorization": f"Bearer {key}", **headers, **each(number)}
                    found.append(await client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=told))

        await asyncio.gather(*(work() for _ in range(16)))
        return found

    return asyncio.run(run())


def endpoints(answers: list[httpx.Response]) -> Counter[str]:
    assert {a.status_code for a in answers} == {200}, [a.text for a in answers if a.status_code != 200][:3]
    return Counter(a.headers["x-litellm-model-id"].split("@")[0] for a in answers)
