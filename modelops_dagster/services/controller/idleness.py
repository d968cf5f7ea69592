"""Who has been asked, and when: what decides that an endpoint sleeps and that it wakes."""

from datetime import UTC, datetime

from modelops_dagster.clients.endpoints import Demand, EndpointRecord, ReplicaRecord
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.lifecycle import Observation

DEFAULT_COOLDOWN_S = 300
IDLE_ENOUGH_S = 5.0  # without a call, when somebody needs the accelerators


class Idleness:
    """Knows of use by two signs: what the gateway noted, and connections seen by whoever looked at the engine.

    The second one is there for calls that come past the gateway (an evaluation asks the engine itself). What a
    restart forgets counts as use, so it can only make an endpoint sleep later.
    """

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._opened = datetime.now(UTC)
        self._seen: dict[str, datetime] = {}
        self.pressed: set[str] = set()  # endpoints that shall not wait for their cool-down, since others need the room

    def saw(self, name: str, seen: Observation | None) -> None:
        """Take in what a look at the engine showed."""
        if seen is not None and seen.in_use:
            self._seen[name] = datetime.now(UTC)

    def idle(self, record: EndpointRecord, replica: ReplicaRecord) -> bool:
        """Whether nobody has used the endpoint for its cool-down period, so that this replica of it may sleep."""
        return self.unused_for(
            record, replica, IDLE_ENOUGH_S if record.name in self.pressed else cooldown_s(record.spec)
        )

    def unused_for(self, record: EndpointRecord, replica: ReplicaRecord, seconds: float) -> bool:
        """Whether nobody has used the endpoint for so long; False when this replica of it may not sleep."""
        if not record.spec.scale_to_zero or replica.state is not EndpointState.RUNNING:
            return False
        if record.spec.async_deployment_type == "ASYNC":
            return False  # its requests do not come through the gateway: the autoscaler looks at its queue
        last = self._demand.last(record.name)
        used = max(replica.since, self._opened, self._seen.get(record.name, self._opened), last or self._opened)
        return (datetime.now(UTC) - used).total_seconds() >= seconds

    def asked_for(self, name: str, replica: ReplicaRecord) -> bool:
        """Whether somebody has asked for the endpoint since this replica of it fell asleep."""
        if replica.state is not EndpointState.SLEEPING:
            return False
        last = self._demand.last(name)
        return last is not None and last > replica.since

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self.pressed.discard(name)
        self._demand.forget(name)


def cooldown_s(spec: EndpointSpec) -> int:
    """Seconds without a request after which the endpoint sleeps."""
    return spec.autoscale_config.cooldown_period if spec.autoscale_config else DEFAULT_COOLDOWN_S
