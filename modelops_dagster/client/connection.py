"""One connection to one controller: its key, who answers there, and answers that are errors."""

from typing import Any, Self

import httpx

from modelops_dagster.client.home import controller_address, token_path
from modelops_dagster.domain.errors import (
    Conflict,
    DiskFull,
    EndpointFailed,
    Forbidden,
    InvalidSpec,
    ModelOpsError,
    NoSuchEndpoint,
    NotFound,
    NotRunning,
    UserError,
)
from modelops_dagster.settings import Settings

_BY_CODE: dict[str, type[ModelOpsError]] = {
    kind.code: kind
    for kind in (Conflict, DiskFull, EndpointFailed, Forbidden, NoSuchEndpoint, NotFound, NotRunning, UserError)
}


class Connection:
    """Sends requests to one controller.

    Args:
        base_url: of the controller, without a path.
        token: its key; sent only after the other side has said that it is a controller (of `home`, when given).
        timeout_s: for one request.
    """

    def __init__(self, base_url: str, token: str, timeout_s: float = 10.0, *, home: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._home = home
        self._known = False
        self._token = token
        # trust_env off: a proxy in the environment must see neither the key nor loopback traffic
        self._http = httpx.Client(base_url=self._base_url, timeout=timeout_s, trust_env=False)

    @classmethod
    def from_settings(cls, settings: Settings, timeout_s: float = 10.0) -> Self:
        """The connection to the controller that serves `settings.home`.

        Raises:
            NotRunning: no controller was ever started for this home.
        """
        path = token_path(settings.home)
        if not path.is_file():
            raise NotRunning(f"No controller has run for {settings.home} yet; start it with `modelops up`.")
        return cls(controller_address(settings), path.read_text().strip(), timeout_s, home=str(settings.home))

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a success; an error as the exception that it was."""
        answer = self._send(method, path, **options)
        if not answer.is_success:
            raise self._refusal(answer)
        return self._document(answer)

    def _text(self, path: str, **options: Any) -> str:
        """The text of a success; an error as the exception that it was."""
        answer = self._send("GET", path, **options)
        if answer.is_success:
            return answer.text
        raise self._refusal(answer)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        if not self._known:
            self._recognise()
        try:
            return self._http.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **options)
        except httpx.TransportError as error:
            self._known = False
            raise self._absent() from error

    def _recognise(self) -> None:
        """See that a controller answers, and the right one, before the key is sent."""
        try:
            body = self._http.get("/health").json()
        except httpx.TransportError as error:
            raise self._absent() from error
        except ValueError as error:
            raise self._stranger() from error
        if not isinstance(body, dict) or body.get("service") != "modelops-controller":
            raise self._stranger()
        if self._home is not None and body.get("home") != self._home:
            raise NotRunning(
                f"The controller at {self._base_url} serves {body.get('home')} and not {self._home}; "
                "start one here with `modelops up` on another MODELOPS_CONTROLLER_PORT."
            )
        self._known = True

    def _absent(self) -> NotRunning:
        return NotRunning(f"The controller does not answer at {self._base_url}; start it with `modelops up`.")

    def _stranger(self) -> NotRunning:
        return NotRunning(
            f"Another program answers at {self._base_url}; start the controller with `modelops up` on another "
            "MODELOPS_CONTROLLER_PORT."
        )

    def _document(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            self._known = False
            raise self._stranger() from error

    def _refusal(self, answer: httpx.Response) -> ModelOpsError:
        status, body = answer.status_code, self._document(answer)
        if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
            return self._stranger()
        error = body["error"]
        message, code = str(error.get("message")), str(error.get("code"))
        if status == 401:
            return NotRunning(f"The controller at {self._base_url} refused this home's key; restart `modelops up`.")
        if code == InvalidSpec.code:
            return InvalidSpec(message, field=error.get("field"))
        return _BY_CODE.get(code, ModelOpsError)(message)
