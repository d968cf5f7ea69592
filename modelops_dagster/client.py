"""The controller as a Python object: the same verbs as the REST API and the `modelops endpoints` command."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from modelops_dagster.domain.endpoints import ENDPOINT_NAME, EndpointSpec, EndpointState, EndpointStatus, LogChunk
from modelops_dagster.domain.engines import EngineStatus
from modelops_dagster.domain.errors import (
    Conflict,
    DiskFull,
    EndpointFailed,
    InvalidSpec,
    ModelOpsError,
    NoSuchEndpoint,
    NotRunning,
    UserError,
)
from modelops_dagster.settings import Settings

_POLL_S = 0.3
_SOONEST_POLL_S = 0.05  # what waits for something short waits in small steps
_ARGUMENTS_TIMEOUT_S = 200.0
# How long a wait survives a controller that does not answer: it may be restarting, and the engine runs on without it.
_ABSENCE_S = 30.0
_BY_CODE: dict[str, type[ModelOpsError]] = {
    kind.code: kind for kind in (Conflict, DiskFull, NoSuchEndpoint, NotRunning, UserError)
}


def controller_folder(home: Path) -> Path:
    """Where a home's controller keeps records, logs and its address."""
    return home / "controller"


def token_path(home: Path) -> Path:
    return home / "secrets" / "controller.token"


def create_token(home: Path) -> str:
    """The controller's key, made at the first start; only the owner of the home can read it."""
    return create_secret(token_path(home))


def create_secret(path: Path) -> str:
    """What the file holds; made of random letters, for its owner only, when there is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_file() and path.read_text().strip():
        path.chmod(0o600)
        return path.read_text().strip()
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(secrets.token_urlsafe(32))
    draft.replace(path)
    return path.read_text().strip()


class ModelOpsClient:
    """Talks to one controller. Verbs that ask for something return at once; `wait_ready` and `wait_stopped` wait.

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
    def from_settings(cls, settings: Settings, timeout_s: float = 10.0) -> "ModelOpsClient":
        """The client of the controller that serves `settings.home`.

        Raises:
            NotRunning: no controller was ever started for this home.
        """
        path = token_path(settings.home)
        if not path.is_file():
            raise NotRunning(f"No controller has run for {settings.home} yet; start it with `modelops up`.")
        url = settings.controller_url
        address = controller_folder(settings.home) / "address.json"
        if settings.controller_port == 0 and address.is_file():
            url = json.loads(address.read_text())["url"]
        return cls(url, path.read_text().strip(), timeout_s, home=str(settings.home))

    def close(self) -> None:
        self._http.close()

    # verbs

    def apply(self, spec: EndpointSpec) -> EndpointStatus:
        """Make `spec` true: create, replace the engine of, start or retry the endpoint; no change when it is true.

        Raises:
            InvalidSpec: a field does not hold.
            Conflict: the endpoint is being deleted.
        """
        # an engine is asked about arguments it was never asked about before
        more = {"timeout": _ARGUMENTS_TIMEOUT_S} if spec.engine_args else {}
        return self._status("PUT", _path(spec.name), json=spec.model_dump(mode="json"), **more)

    def get(self, name: str) -> EndpointStatus | None:
        """How the endpoint stands; None when there is none of that name."""
        try:
            return self._status("GET", _path(name))
        except NoSuchEndpoint:
            return None

    def list(self) -> tuple[EndpointStatus, ...]:
        answer = self._call("GET", "/v1/endpoints")
        return tuple(EndpointStatus.model_validate(item) for item in answer["endpoints"])

    def start(self, name: str) -> EndpointStatus:
        return self._status("POST", _path(name, "/start"))

    def stop(self, name: str) -> EndpointStatus:
        """Want it Stopped; `wait_stopped` returns when no process of it is left."""
        return self._status("POST", _path(name, "/stop"))

    def restart(self, name: str) -> EndpointStatus:
        return self._status("POST", _path(name, "/restart"))

    def delete(self, name: str, confirm: str | None = None) -> EndpointStatus:
        """End and forget it, logs included. `confirm` is what the person typed; a program may leave it out."""
        params = {"confirm": name if confirm is None else confirm}
        return self._status("DELETE", _path(name), params=params)

    def engines(self) -> tuple[EngineStatus, ...]:
        answer = self._call("GET", "/v1/engines")
        return tuple(EngineStatus.model_validate(item) for item in answer["engines"])

    def logs(self, name: str, tail: int = 200) -> str:
        """The last `tail` lines the engine wrote; empty when it wrote nothing."""
        return self._log_chunk(name, {"tail": tail}).text

    def follow_logs(self, name: str, tail: int = 20) -> Iterator[str]:
        """The last lines, then everything that comes, over restarts, until the endpoint is deleted."""
        chunk = self._log_chunk(name, {"tail": tail})
        yield chunk.text and chunk.text + "\n"
        while True:
            params: dict[str, Any] = {"tail": 10_000}
            if chunk.launch_id is not None:
                params |= {"launch_id": chunk.launch_id, "offset": chunk.offset}
            try:
                chunk = self._log_chunk(name, params)
            except NoSuchEndpoint:
                return
            if chunk.text:
                yield chunk.text
            else:
                time.sleep(_POLL_S)

    # waiting

    def wait_ready(
        self, name: str, timeout_s: float, on_progress: Callable[[EndpointStatus], None] | None = None
    ) -> EndpointStatus:
        """Wait until the endpoint is Running, has failed, or is Stopped because somebody stopped it.

        `on_progress` is called with every status seen.

        Raises:
            EndpointFailed: none of that after `timeout_s` seconds, or the endpoint was deleted.
        """

        def settled(status: EndpointStatus | None) -> bool:
            if status is None:
                raise EndpointFailed(f"Endpoint {name} was deleted while it was waited for; apply its spec again.")
            if on_progress is not None:
                on_progress(status)
            return status.url is not None or status.failed or status.desired == "Stopped"

        status = self._wait(name, settled, timeout_s, "ready")
        if status is None:
            raise EndpointFailed(f"Endpoint {name} is gone; apply its spec again.")
        return status

    def wait_stopped(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until no process of the endpoint is left.

        Raises:
            EndpointFailed: it is not Stopped after `timeout_s` seconds.
        """
        self._wait(name, lambda s: s is None or s.state is EndpointState.STOPPED, timeout_s, "stopped")

    def wait_deleted(self, name: str, timeout_s: float = 60.0) -> None:
        """Wait until the endpoint is gone.

        Raises:
            EndpointFailed: it is still there after `timeout_s` seconds.
        """
        self._wait(name, lambda s: s is None, timeout_s, "gone")

    def _wait(
        self, name: str, settled: Callable[[EndpointStatus | None], bool], timeout_s: float, what: str
    ) -> EndpointStatus | None:
        begun = answered = time.monotonic()
        status: EndpointStatus | None = None
        while True:
            try:
                status = self.get(name)
                answered = time.monotonic()
                if settled(status):
                    return status
            except NotRunning:
                if time.monotonic() - answered > min(_ABSENCE_S, timeout_s):
                    raise
            if time.monotonic() - begun > timeout_s:
                state = status.state if status else "unknown"
                raise EndpointFailed(
                    f"Endpoint {name} is not {what} after {timeout_s:g} s, its state is {state}; "
                    f"read `modelops endpoints logs {name}`."
                )
            time.sleep(min(_POLL_S, max(_SOONEST_POLL_S, 0.02 * (time.monotonic() - begun))))

    # transport

    def _status(self, method: str, path: str, **options: Any) -> EndpointStatus:
        return EndpointStatus.model_validate(self._call(method, path, **options))

    def _log_chunk(self, name: str, params: dict[str, Any]) -> LogChunk:
        return LogChunk.model_validate(self._call("GET", _path(name, "/logs"), params=params))

    def _call(self, method: str, path: str, **options: Any) -> Any:
        if not self._known:
            self._recognise()
        try:
            answer = self._http.request(method, path, headers={"Authorization": f"Bearer {self._token}"}, **options)
            body = answer.json()
        except httpx.TransportError as error:
            self._known = False
            raise self._absent() from error
        except ValueError as error:
            self._known = False
            raise self._stranger() from error
        if answer.is_success:
            return body
        raise self._as_error(answer.status_code, body)

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

    def _as_error(self, status: int, body: Any) -> ModelOpsError:
        if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
            return self._stranger()
        error = body["error"]
        message, code = str(error.get("message")), str(error.get("code"))
        if status == 401:
            return NotRunning(f"The controller at {self._base_url} refused this home's key; restart `modelops up`.")
        if code == InvalidSpec.code:
            return InvalidSpec(message, field=error.get("field"))
        return _BY_CODE.get(code, ModelOpsError)(message)


def _path(name: str, verb: str = "") -> str:
    """The endpoint's route. A name that no endpoint can have is answered here, before it becomes another route."""
    if not ENDPOINT_NAME.fullmatch(name):
        raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
    return f"/v1/endpoints/{name}{verb}"
