"""Endpoints that somebody else serves: nothing is started, they are asked whether they are there.

They go through the same states as ours, by the same decisions: Startup until one token came, Running while they answer,
Unreachable beside it while they do not, and a failure when asking again would change nothing.
"""

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from modelops_dagster.clients.endpoints.backend import Prepared, Replica
from modelops_dagster.clients.endpoints.probing import Finding, Prober
from modelops_dagster.domain.endpoint_spec import ApiEndpoint
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.errors import DiskFull, InvalidSpec
from modelops_dagster.domain.lifecycle import Observation

START_TIMEOUT_S = 60.0
PERIOD_S = 10.0
VERSION = "external"

KeyOf = Callable[[str], str | None]


@dataclass(frozen=True)
class NoLaunch:
    """There is no program."""

    argv: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    version: str = VERSION


@dataclass
class _Watched:
    """What the last probe of one launch found, and when."""

    found: Finding
    at: float
    proven: bool  # one token came since it was launched


class ExternalBackend:
    """Watches endpoints of other people.

    Args:
        logs: where each launch's findings are written, as an engine's log would be.
        key_of: the key that a variable's or credential's name stands for; None when there is none.
    """

    def __init__(self, logs: Path, key_of: KeyOf) -> None:
        self._logs = logs
        self._key_of = key_of
        self._prober = Prober()
        self._watched: dict[str, _Watched] = {}

    def prepare(
        self, spec: EndpointSpec, generation: int, reserved_ports: Collection[int] = (), devices: tuple[str, ...] = ()
    ) -> Prepared:
        """Fix the address and the log.

        Raises:
            InvalidSpec: the variable that holds the key is not set.
        """
        api = _api(spec)
        self._key(api)
        launch_id = uuid.uuid4().hex
        parts = urlsplit(api.base_url)
        replica = Replica(
            launch_id=launch_id,
            generation=generation,
            port=parts.port or (443 if parts.scheme == "https" else 80),
            url=api.base_url,
            log_path=str(self._logs / spec.name / f"{launch_id}.log"),
            engine_version=VERSION,
            argv=(),
            launched_at=datetime.now(UTC),
            start_timeout_s=START_TIMEOUT_S,
            devices=devices,
        )
        return Prepared(replica, NoLaunch())

    def start(self, spec: EndpointSpec, prepared: Prepared) -> Replica:
        """Open the log; the endpoint itself runs or does not."""
        self._note(prepared.replica, f"watching {prepared.replica.url} as {spec.served_model_name}")
        return prepared.replica

    def observe(self, spec: EndpointSpec, replica: Replica, *, ask: bool) -> Observation:
        """Ask it, at most once a period. It is gone when asking again would change nothing."""
        if not ask:
            return Observation(alive=True)
        found = self._look(spec, replica).found
        if found.refused:
            return Observation(alive=False, detail=found.detail)
        return Observation(alive=True, ready=found.answers, detail=found.detail)

    def end(self, replica: Replica) -> None:
        """Stop watching."""
        self._watched.pop(replica.launch_id, None)

    def _look(self, spec: EndpointSpec, replica: Replica) -> _Watched:
        last = self._watched.get(replica.launch_id)
        period_s = spec.healthcheck.period_s if spec.healthcheck else PERIOD_S
        # one that is being waited for is asked again soon, the more so the sooner it may be there
        due_s = period_s if last is None or last.proven else min(period_s, 1.0)
        if last is not None and time.monotonic() - last.at < due_s:
            return last
        proven = last is not None and last.proven
        api = _api(spec)
        try:
            found = self._prober.probe(api, self._key(api), spec.healthcheck, token=not proven)
        except InvalidSpec as error:
            found = Finding(False, refused=True, detail=error.sentence.rstrip("."))
        if last is None or last.found != found:
            self._note(replica, found.detail or "it answers")
        watched = _Watched(found, time.monotonic(), proven or found.answers)
        self._watched[replica.launch_id] = watched
        return watched

    def _key(self, api: ApiEndpoint) -> str | None:
        name = api.api_key_name
        if name is None:
            return None
        key = self._key_of(name)
        if key is None:
            raise InvalidSpec(
                f"There is no key {name}: keep it with `modelops routes credential {name}`, or set the variable and "
                "start the controller again.",
                field="target.api_endpoint.api_key_name",
            )
        return key

    def _note(self, replica: Replica, text: str) -> None:
        path = Path(replica.log_path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("a") as log:
                log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
        except OSError as error:
            raise DiskFull(f"{path} cannot be written ({error.strerror}); free space or fix its rights.") from error


def _api(spec: EndpointSpec) -> ApiEndpoint:
    if spec.target is None:
        raise InvalidSpec(f"Endpoint {spec.name} does not say where it is; give it a target.", field="target")
    return spec.target.api_endpoint
