"""What a controller needs from the place where engines run, whatever that place is."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pydantic import Field

from modelops_dagster.clients.processes import ProcessIdentity
from modelops_dagster.domain.endpoints import EndpointSpec, LogChunk
from modelops_dagster.domain.engines import EngineManifest, Rung
from modelops_dagster.domain.lifecycle import Observation
from modelops_dagster.domain.values import Value


class Launch(Protocol):
    """How an engine is started. `environ` is all it gets."""

    @property
    def argv(self) -> tuple[str, ...]: ...

    @property
    def environ(self) -> Mapping[str, str]: ...

    @property
    def version(self) -> str: ...


class Launcher(Protocol):
    """The engines of this machine; `clients.engines.EngineRegistry` is the real one."""

    def manifests(self) -> Mapping[str, EngineManifest]: ...

    def manifest(self, name: str) -> EngineManifest: ...

    def environment(self, name: str) -> Path | None: ...

    def missing(self, name: str) -> str | None: ...

    def unavailable_reason(self, name: str) -> str | None: ...

    def rungs(self, accelerator: str, architectures: Sequence[str] = (), repo_id: str = "") -> list[Rung]: ...

    def check_arguments(self, name: str, arguments: Sequence[str]) -> None: ...

    def launch(self, spec: EndpointSpec, host: str, port: int) -> Launch: ...


class Replica(Value):
    """One start of an engine. It is on disk before the engine is, so a kill in between loses no process."""

    launch_id: str = Field(description="unique; names the log")
    generation: int = Field(description="of the record it was started for; an older one is outdated")
    port: int
    url: str = Field(description="base URL that ends in /v1")
    log_path: str = Field(description="absolute; also how processes of this start are recognised")
    engine_version: str
    argv: tuple[str, ...]
    launched_at: datetime
    start_timeout_s: float
    health_path: str | None = Field(default=None, description="asked before the models are, where the engine has one")
    placing_timeout_s: float = Field(default=0.0, description="of a cluster: to find a node and an image")
    devices: tuple[str, ...] = Field(default=(), description="accelerators it was given; the only ones it sees")
    identity: ProcessIdentity | None = Field(default=None, description="None until the process exists")

    @property
    def is_external(self) -> bool:
        """Nothing was started for it: somebody else serves it."""
        return not self.argv


@dataclass(frozen=True)
class Prepared:
    """A replica that can be started. `launch` holds the environment and is never written down."""

    replica: Replica
    launch: Launch


class EndpointBackend(Protocol):
    """Starts, watches and ends engines; remembers nothing that the record does not say.

    Every method may block and may be called from several threads, for different endpoints at once.
    """

    def prepare(
        self, spec: EndpointSpec, generation: int, reserved_ports: Collection[int] = (), devices: tuple[str, ...] = ()
    ) -> Prepared:
        """Fix command, port and log. Starts nothing.

        Raises:
            UserError: the engine or the checkpoint is not there.
        """

    def start(self, spec: EndpointSpec, prepared: Prepared) -> Replica:
        """Start the engine; returns the replica with its identity.

        Raises:
            ModelOpsError: it could not be started; no process is left.
        """

    def adopt(self, replica: Replica) -> Replica:
        """The replica as found after the controller was away; starts nothing."""

    def observe(self, spec: EndpointSpec, replica: Replica, *, ask: bool) -> Observation:
        """Look at the engine; with `ask`, also whether the served model name answers."""

    def end(self, replica: Replica) -> None:
        """End every process of the replica. Does nothing when none is left.

        Raises:
            EndpointFailed: a process could not be ended.
        """

    def end_strangers(self, known: Collection[Replica]) -> list[str]:
        """End engines of this home that no record claims; returns a sentence for each."""

    def tail(self, replica: Replica, lines: int) -> str:
        """The last `lines` lines of the replica's log; empty when there is none."""

    def read_log(self, name: str, *, tail: int, launch_id: str | None = None, offset: int = 0) -> LogChunk:
        """The last `tail` lines of the endpoint's newest log, or what `launch_id`'s log has after byte `offset`."""

    def forget(self, name: str) -> None:
        """Remove what a deleted endpoint left: logs, working directory."""
