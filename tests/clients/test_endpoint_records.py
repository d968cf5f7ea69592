"""One record for several replicas: whatever is wished and whatever happens, it contradicts no process."""

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelops_dagster.clients.endpoints import EndpointRecord, Replica
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState

NOW = datetime(2026, 1, 2, tzinfo=UTC)
WITH_PROCESS = [EndpointState.DEPLOYING, EndpointState.STARTUP, EndpointState.RUNNING]
WITHOUT = [EndpointState.BUILDING, EndpointState.SLEEPING, EndpointState.STOPPED, EndpointState.RUNTIME_ERROR]


def spec(fewest: int, most: int) -> EndpointSpec:
    return EndpointSpec(
        name="small",
        checkpoint="/c",
        checkpoint_digest="sha256:0",
        engine="fake",
        served_model_name="m",
        min_replicas=fewest,
        max_replicas=most,
    )


def launched(port: int, generation: int) -> Replica:
    return Replica(
        launch_id=str(port),
        generation=generation,
        port=port,
        url=f"http://127.0.0.1:{port}/v1",
        log_path=f"/logs/{port}.log",
        engine_version="1",
        argv=("engine",),
        launched_at=NOW,
        start_timeout_s=1,
    )


class Record(RuleBasedStateMachine):
    """A record under wishes and events. `running` is what really runs: port -> the place that claims it."""

    @initialize(fewest=st.integers(1, 4))
    def create(self, fewest: int) -> None:
        made = EndpointRecord(spec=spec(fewest, 5), desired="Running", state=EndpointState.BUILDING, since=NOW)
        self.record = made.fitted(NOW)
        self.running: dict[int, int] = {}
        self.port = 1000

    @rule(fewest=st.integers(1, 5))
    def scale(self, fewest: int) -> None:
        self.record = self.record.model_copy(update={"spec": spec(fewest, 5), "scaled_to": None}).fitted(NOW)

    @rule(count=st.integers(1, 9))
    def follow_traffic(self, count: int) -> None:
        self.record = self.record.model_copy(update={"scaled_to": count}).fitted(NOW)

    @rule(desired=st.sampled_from(["Running", "Stopped"]))
    def wish(self, desired: str) -> None:
        self.record = self.record.model_copy(update={"desired": desired}).fitted(NOW)

    @rule()
    def new_spec(self) -> None:
        generation = self.record.replica_generation + 1
        self.record = self.record.model_copy(update={"replica_generation": generation}).fitted(NOW)

    @rule(place=st.integers(0, 5), state=st.sampled_from(WITH_PROCESS), resting=st.booleans())
    def something_runs(self, place: int, state: EndpointState, resting: bool) -> None:
        if place >= len(self.record.replicas):
            return
        replica = self.record.replicas[place].replica
        if replica is None:
            self.port += 1
            replica = launched(self.port, self.record.replica_generation)
            self.running[self.port] = place
        self.record = self.record.with_replica(place, replica=replica, state=state, resting=resting)

    @rule(place=st.integers(0, 5), state=st.sampled_from(WITHOUT))
    def it_ended(self, place: int, state: EndpointState) -> None:
        if place >= len(self.record.replicas):
            return
        self.running = {port: where for port, where in self.running.items() if where != place}
        self.record = self.record.with_replica(place, replica=None, state=state, resting=False).fitted(NOW)

    @invariant()
    def every_process_is_claimed_by_its_place(self) -> None:
        if hasattr(self, "record"):
            claimed = {r.replica.port: n for n, r in enumerate(self.record.replicas) if r.replica is not None}
            assert claimed == self.running
            assert sorted(replica.port for replica in self.record.started) == sorted(self.running)

    @invariant()
    def there_is_a_place_for_each_that_is_wanted(self) -> None:
        if hasattr(self, "record"):
            most = max(1, self.record.spec.max_replicas)
            assert self.record.spec.min_replicas <= self.record.wanted <= most
            if self.record.desired == "Running":
                assert len(self.record.replicas) >= self.record.wanted

    @invariant()
    def nobody_is_sent_where_nothing_answers(self) -> None:
        if hasattr(self, "record"):
            status = self.record.status()
            answering = {r.url for r in status.replicas if r.url is not None}
            assert set(self.record.urls()) == answering
            assert {int(str(url).split(":")[2].split("/")[0]) for url in answering} <= set(self.running)
            assert not (answering and self.record.desired == "Stopped")
            if status.url is not None:
                assert status.state is EndpointState.RUNNING
            if status.state is EndpointState.STOPPED:
                assert not self.record.started or self.record.desired == "Running"


Record.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestRecord = Record.TestCase


def test_calls_go_to_the_pods_of_a_cluster_and_people_are_told_the_service():
    running = EndpointRecord(
        spec=spec(2, 2), desired="Running", state=EndpointState.RUNNING, since=NOW, on_cluster=True,
        replica=launched(8000, 1), addresses=("http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"),
    )  # fmt: skip
    assert running.live().urls == running.addresses
    assert running.status().url == "http://127.0.0.1:8000/v1"
    assert running.model_copy(update={"addresses": ()}).live().urls == ("http://127.0.0.1:8000/v1",)
    for change in ({"condition": "Unreachable"}, {"resting": True}, {"desired": "Stopped"}):
        assert running.model_copy(update=change).live().urls == (), change
