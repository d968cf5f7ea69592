"""What the platform asks of a running gateway: are you there, do you serve this route yet, what does the model say."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec, NotRunning, PortTaken

SERVICE = "modelops-gateway"
POLL_INTERVAL_S = 0.1


def home_digest(home: Path) -> str:
    """By what a gateway says whose it is, to whoever asks: 16 hex digits and no path."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]


class GatewayClient:
    """A client of one gateway. Only `ask` needs a key."""

    def __init__(
        self, base_url: str, key: str | None = None, *, timeout_s: float = 10, home: Path | None = None
    ) -> None:
        """
        Args:
            base_url: without /v1, e.g. http://127.0.0.1:4000.
            key: a gateway key.
            timeout_s: how long one request may take.
            home: whose gateway it has to be; None takes any.
        """
        self._home = home
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._http = httpx.Client(timeout=timeout_s)

    def running(self) -> bool:
        """Whether a gateway, that of `home`, answers and takes calls now.

        Raises:
            PortTaken: another program, or the gateway of another home, answers at this address.
        """
        try:
            answer = self._http.get(f"{self.base_url}/health/liveliness")
        except httpx.HTTPError:
            return False
        if answer.headers.get("x-modelops-service") != SERVICE:
            raise PortTaken(
                f"another program answers at {self.base_url}; stop it, or set MODELOPS_GATEWAY_PORT to another port."
            )
        if answer.status_code != 200:
            return False
        self._recognise(answer.json())
        return True

    def _recognise(self, document: dict[str, object]) -> None:
        if self._home is not None and document.get("home") != home_digest(self._home):
            raise PortTaken(
                f"the gateway at {self.base_url} follows the routes of another home and not those of {self._home}; "
                "start one here with `modelops up` on another MODELOPS_GATEWAY_PORT."
            )

    def ready(self, timeout_s: float) -> None:
        """Wait until the gateway takes calls.

        Raises:
            NotRunning: it does not within `timeout_s`.
            PortTaken: another program answers at this address.
        """
        _wait(
            self.running,
            timeout_s,
            f"the gateway at {self.base_url} was not ready within {timeout_s:g} s; start it with `modelops up`.",
        )

    def visible(self, alias: str, version: int | None, timeout_s: float = 10) -> None:
        """Wait until every worker of the gateway serves this version of the route, or a later one.

        Args:
            alias: whose route was changed.
            version: of the route as written; None waits until no worker knows the alias any more.
            timeout_s: how long to wait.

        Raises:
            NotRunning: the gateway does not answer, or does not follow the route within `timeout_s`.
            PortTaken: it is the gateway of another home, which may know the alias as well.
        """

        def follows() -> bool:
            try:
                answer = self._http.get(f"{self.base_url}/modelops/routes/{alias}")
                served = answer.raise_for_status().json()
            except (httpx.HTTPError, ValueError):
                return False
            self._recognise(served)
            if version is None:
                return bool(served["gone"])
            return served["version"] is not None and served["version"] >= version

        wanted = "its withdrawal" if version is None else f"version {version}"
        _wait(
            follows,
            timeout_s,
            f"the gateway at {self.base_url} did not follow {wanted} of route {alias!r} within {timeout_s:g} s; "
            "see that `modelops up` runs, and read its log.",
        )

    def ask(self, alias: str, question: str, *, max_tokens: int = 64) -> tuple[str, dict[str, str]]:
        """Put one question to a model, as an application would.

        Returns:
            The answer and the response headers; `x-litellm-model-id` says which endpoint and commit answered.

        Raises:
            InvalidSpec: the key or the alias does not allow it; the sentence is the gateway's.
            EndpointFailed: the endpoint behind the alias failed.
            NotRunning: the gateway does not answer.
        """
        body = {"model": alias, "messages": [{"role": "user", "content": question}], "max_tokens": max_tokens}
        try:
            answer = self._http.post(
                f"{self.base_url}/v1/chat/completions",
                headers={"authorization": f"Bearer {self._key}"} if self._key else {},
                json=body,
                timeout=600,
            )
        except httpx.HTTPError as error:
            raise NotRunning(
                f"the gateway at {self.base_url} does not answer ({error}); start it with `modelops up`."
            ) from error
        if answer.status_code != 200:
            sentence = f"the gateway answered {answer.status_code}: {_told(answer)}"
            raise EndpointFailed(sentence) if answer.status_code >= 500 else InvalidSpec(sentence)
        content = answer.json()["choices"][0]["message"].get("content") or ""
        return content, dict(answer.headers)


def _told(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def _wait(condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotRunning(otherwise)
        time.sleep(POLL_INTERVAL_S)
