"""Verbs of endpoints."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from modelops_dagster.client.connection import Connection
from modelops_dagster.domain.endpoint_spec.document import translated
from modelops_dagster.domain.endpoints import ENDPOINT_NAME, EndpointSpec, EndpointState, EndpointStatus, LogChunk
from modelops_dagster.domain.engines import EngineStatus
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec, NoSuchEndpoint, NotRunning

_POLL_S = 0.3
_SOONEST_POLL_S = 0.05  # what waits for something short waits in small steps
_ARGUMENTS_TIMEOUT_S = 200.0
# How long a wait survives a controller that does not answer: it may be restarting, and the engine runs on without it.
_ABSENCE_S = 30.0
QUEUE_LIMIT_S = 12 * 3600.0  # half of the day that a release has


class EndpointVerbs(Connection):
    """Verbs that ask for something return at once; `wait_ready` and `wait_stopped` wait."""

    def apply(self, spec: EndpointSpec, *, start: bool = True) -> EndpointStatus:
        """Make `spec` true: create, replace the engine of, start or retry the endpoint; no change when it is true.

        Args:
            start: False wants the endpoint to be there and Stopped.

        Raises:
            InvalidSpec: a field does not hold.
            Conflict: the endpoint is being deleted.
        """
        body, params = spec.model_dump(mode="json"), {"start": start}
        return self._status("PUT", endpoint_path(spec.name), json=body, params=params, **_patience(spec))

    def create_endpoint(self, spec: EndpointSpec | None = None, **fields: Any) -> EndpointStatus:
        """Make a new endpoint; `apply` also changes one that is there.

        Args:
            spec: a complete spec.
            fields: instead of it, what a spec file says: name, model and whatever else; the rest is found.

        Raises:
            InvalidSpec: a field does not hold, or the model is not in the store.
            Conflict: there is an endpoint of that name.
        """
        # an empty field is one that was left out, and would be looked for
        body = fields if spec is None else spec.model_dump(mode="json", exclude_defaults=True)
        return self._status("POST", "/v1/endpoints", json=body, timeout=_ARGUMENTS_TIMEOUT_S)

    def update_endpoint(self, name: str, *, restart: bool = False, **changes: Any) -> EndpointStatus:
        """Change fields of the spec, e.g. `max_replicas=10`; a stopped endpoint stays so until it is started.

        Args:
            restart: end its engine and start another where a change needs that.

        Raises:
            InvalidSpec: a field does not hold, or would make it another endpoint.
            Conflict: the endpoint must be Stopped for one of them.
        """
        options = {"timeout": _ARGUMENTS_TIMEOUT_S} if changes.get("engine_args") else {}
        try:
            told = translated(changes)
        except ValueError as error:
            raise InvalidSpec(f"{error}.") from error
        return self._status("PATCH", endpoint_path(name), json=told, params={"restart": restart}, **options)

    def configure_autoscaling(
        self,
        name: str,
        metrics: Sequence[Mapping[str, Any]],
        min_replicas: int | None = None,
        max_replicas: int | None = None,
        cooldown_period: int | None = None,
    ) -> EndpointStatus:
        """Say when replicas come and go, while the endpoint runs.

        Args:
            metrics: targets, as in a spec's `autoscale_config` (metric, target, percentile), or in the terms of others:
                cpu_usage, gpu_usage and memory_usage as shares, request_rate in requests a minute.
            min_replicas, max_replicas: None leaves the number as it is.
            cooldown_period: seconds; None is the default.

        Raises:
            InvalidSpec: a target does not hold.
        """
        config: dict[str, Any] = {"targets": [dict(m) for m in metrics]}
        config |= {} if cooldown_period is None else {"cooldown_period": cooldown_period}
        bounds = {"min_replicas": min_replicas, "max_replicas": max_replicas}
        given: dict[str, Any] = {k: v for k, v in bounds.items() if v is not None}
        return self.update_endpoint(name, autoscale_config=config, **given)

    def get(self, name: str) -> EndpointStatus | None:
        """How the endpoint stands; None when there is none of that name."""
        try:
            return self._status("GET", endpoint_path(name))
        except NoSuchEndpoint:
            return None

    def list(self) -> tuple[EndpointStatus, ...]:
        answer = self._call("GET", "/v1/endpoints")
        return tuple(EndpointStatus.model_validate(item) for item in answer["endpoints"])

    def start(self, name: str) -> EndpointStatus:
        return self._status("POST", endpoint_path(name, "/start"))

    def stop(self, name: str) -> EndpointStatus:
        """Want it Stopped; `wait_stopped` returns when no process of it is left."""
        return self._status("POST", endpoint_path(name, "/stop"))

    def restart(self, name: str) -> EndpointStatus:
        return self._status("POST", endpoint_path(name, "/restart"))

    def delete(self, name: str, confirm: str | None = None) -> EndpointStatus:
        """End and forget it, logs included. `confirm` is what the person typed; a program may leave it out."""
        params = {"confirm": name if confirm is None else confirm}
        return self._status("DELETE", endpoint_path(name), params=params)

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
        self,
        name: str,
        timeout_s: float,
        on_progress: Callable[[EndpointStatus], None] | None = None,
        *,
        queue_limit_s: float = QUEUE_LIMIT_S,
    ) -> EndpointStatus:
        """Wait until the endpoint is Running, has failed, or is Stopped because somebody stopped it.

        `on_progress` is called with every status seen. The time it is queued for accelerators is not its own, and has
        a limit apart.

        Raises:
            EndpointFailed: none of that after `timeout_s` seconds, or the endpoint was deleted.
        """

        def settled(status: EndpointStatus | None) -> bool:
            if status is None:
                raise EndpointFailed(f"Endpoint {name} was deleted while it was waited for; apply its spec again.")
            if on_progress is not None:
                on_progress(status)
            return status.url is not None or status.failed or status.desired == "Stopped"

        status = self._wait(name, settled, timeout_s, "ready", queue_limit_s)
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
        self,
        name: str,
        settled: Callable[[EndpointStatus | None], bool],
        timeout_s: float,
        what: str,
        queue_limit_s: float = QUEUE_LIMIT_S,
    ) -> EndpointStatus | None:
        begun = answered = time.monotonic()
        queued_s = 0.0
        status: EndpointStatus | None = None
        while True:
            try:
                status = self.get(name)
                since, answered = answered, time.monotonic()
                if settled(status):
                    return status
                if status is not None and status.queued:
                    queued_s += answered - since
            except NotRunning:
                if time.monotonic() - answered > min(_ABSENCE_S, timeout_s):
                    raise
            if queued_s > queue_limit_s and status is not None:
                raise EndpointFailed(
                    f"Endpoint {name} was queued for {queued_s / 60:.0f} minutes. {status.message} "
                    "Free some, or stop the endpoint, and try again."
                )
            if time.monotonic() - begun - queued_s > timeout_s:
                state = status.state if status else "unknown"
                raise EndpointFailed(
                    f"Endpoint {name} is not {what} after {timeout_s:g} s, its state is {state}; "
                    f"read `modelops endpoints logs {name}`."
                )
            time.sleep(min(_POLL_S, max(_SOONEST_POLL_S, 0.02 * (time.monotonic() - begun))))

    def _status(self, method: str, path: str, **options: Any) -> EndpointStatus:
        return EndpointStatus.model_validate(self._call(method, path, **options))

    def _log_chunk(self, name: str, params: dict[str, Any]) -> LogChunk:
        return LogChunk.model_validate(self._call("GET", endpoint_path(name, "/logs"), params=params))


def endpoint_path(name: str, verb: str = "") -> str:
    """The endpoint's route. A name that no endpoint can have is answered here, before it becomes another route."""
    if not ENDPOINT_NAME.fullmatch(name):
        raise NoSuchEndpoint(f"There is no endpoint {name!r}; `modelops endpoints list` shows those there are.")
    return f"/v1/endpoints/{name}{verb}"


def _patience(spec: EndpointSpec) -> dict[str, float]:
    """An engine is asked about arguments that it was never asked about before."""
    return {"timeout": _ARGUMENTS_TIMEOUT_S} if spec.engine_args else {}
