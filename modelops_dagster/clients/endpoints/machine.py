"""Every endpoint of a home: engines of ours, as processes or on a cluster, and those of somebody else."""

from collections.abc import Collection

from modelops_dagster.clients.endpoints.backend import EndpointBackend, Prepared, Replica
from modelops_dagster.clients.endpoints.external import ExternalBackend
from modelops_dagster.domain.endpoints import EndpointSpec, LogChunk
from modelops_dagster.domain.lifecycle import Observation


class MachineBackend:
    """Sends each question to whoever has the endpoint. Processes and external ones have their logs in one folder."""

    def __init__(self, processes: EndpointBackend, external: ExternalBackend) -> None:
        self._processes = processes
        self._external = external

    def prepare(
        self, spec: EndpointSpec, generation: int, reserved_ports: Collection[int] = (), devices: tuple[str, ...] = ()
    ) -> Prepared:
        return self._of(spec).prepare(spec, generation, reserved_ports, devices)

    def start(self, spec: EndpointSpec, prepared: Prepared) -> Replica:
        return self._of(spec).start(spec, prepared)

    def adopt(self, replica: Replica) -> Replica:
        return replica if replica.is_external else self._processes.adopt(replica)

    def observe(self, spec: EndpointSpec, replica: Replica, *, ask: bool) -> Observation:
        return self._of(spec).observe(spec, replica, ask=ask)

    def end(self, replica: Replica) -> None:
        (self._external if replica.is_external else self._processes).end(replica)

    def end_strangers(self, known: Collection[Replica]) -> list[str]:
        return self._processes.end_strangers(known)

    def tail(self, replica: Replica, lines: int) -> str:
        return self._processes.tail(replica, lines)

    def read_log(self, name: str, *, tail: int, launch_id: str | None = None, offset: int = 0) -> LogChunk:
        return self._processes.read_log(name, tail=tail, launch_id=launch_id, offset=offset)

    def forget(self, name: str) -> None:
        self._processes.forget(name)

    def _of(self, spec: EndpointSpec) -> EndpointBackend | ExternalBackend:
        return self._external if spec.is_external else self._processes
