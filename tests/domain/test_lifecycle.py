"""Whatever the sequence of wishes, deaths, thefts, reboots and kills: an endpoint says what its processes are."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelops_dagster.domain.endpoints import FAILED_STATES, EndpointState
from modelops_dagster.domain.lifecycle import (
    TRANSITIONS,
    WITH_REPLICA,
    Action,
    Event,
    Facts,
    Observation,
    RestartPolicy,
    Step,
    decide,
    failure_event,
    next_state,
)

POLICY = RestartPolicy(max_restarts=2, first_delay_s=1, factor=2, max_delay_s=4)


def test_every_state_has_a_row_and_can_be_left_for_stopped_and_for_building():
    assert set(TRANSITIONS) == set(EndpointState)
    for state in EndpointState:
        assert next_state(state, Event.STOPPED) is EndpointState.STOPPED
        assert next_state(state, Event.START) is EndpointState.BUILDING


def test_every_state_can_be_reached_from_stopped():
    reached = {EndpointState.STOPPED}
    while True:
        more = {to for state in reached for to in TRANSITIONS[state].values()} - reached
        if not more:
            break
        reached |= more
    assert reached == set(EndpointState)


def test_an_event_the_table_does_not_have_is_refused():
    with pytest.raises(ValueError, match="Stopped cannot meet"):
        next_state(EndpointState.STOPPED, Event.READY)


def test_delays_grow_to_their_bound():
    policy = RestartPolicy(first_delay_s=1, factor=4, max_delay_s=60)
    assert [policy.delay_s(n) for n in (1, 2, 3, 4, 5, 100_000)] == [1, 4, 16, 60, 60, 60]


def test_an_engine_that_was_never_ready_is_not_tried_again():
    assert failure_event(False, 0, POLICY) is Event.START_FAILED
    assert [failure_event(True, n, POLICY) for n in range(3)] == [Event.CRASHED, Event.CRASHED, Event.GAVE_UP]


ALIVE = Observation(alive=True, ready=False)
AT_ZERO = Observation(alive=True, ready=False, placed=False, asleep=True)
AT_REST = AT_ZERO.model_copy(update={"resumes": True})
RUNNING = {"desired": "Running", "state": EndpointState.RUNNING, "has_replica": True}
RESTING = {**RUNNING, "state": EndpointState.SLEEPING}
STARTUP = {"desired": "Running", "state": EndpointState.STARTUP, "has_replica": True}


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        (Facts(desired="Running", state=EndpointState.DEPLOY_FAILED, has_replica=False), Step(Action.WAIT)),
        (
            Facts(desired="Running", state=EndpointState.DEPLOY_FAILED, has_replica=False, retries=True),
            Step(Action.WAIT, Event.START),
        ),
        (Facts(**STARTUP, seen=ALIVE, since_launch_s=19), Step(Action.WAIT)),
        (Facts(**RUNNING, seen=AT_ZERO), Step(Action.END, Event.SLEEP)),
        (Facts(**RUNNING, seen=AT_REST), Step(Action.WAIT, Event.SLEEP)),
        (Facts(**RESTING, seen=AT_REST, asked_for=True), Step(Action.WAIT)),
        (Facts(**RESTING), Step(Action.WAIT)),
        (Facts(**RESTING, seen=ALIVE), Step(Action.WAIT, Event.RESUMED)),
        (Facts(**{**RESTING, "desired": "Stopped"}, seen=AT_REST), Step(Action.END, Event.STOPPED)),
        (Facts(**RESTING, outdated=True), Step(Action.END)),
        (Facts(**STARTUP, seen=ALIVE, since_launch_s=21), Step(Action.END, Event.START_FAILED, timed_out=True)),
        (
            Facts(**STARTUP, seen=ALIVE, since_launch_s=21, ever_ready=True),
            Step(Action.END, Event.CRASHED, timed_out=True),
        ),
        (Facts(**STARTUP, seen=Observation(alive=True, ready=True), since_launch_s=21), Step(Action.WAIT, Event.READY)),
        (
            Facts(**STARTUP, seen=Observation(alive=True, ready=False, port_taken_by="nginx"), failures=1),
            Step(Action.END, Event.LOST),
        ),
        (
            Facts(**STARTUP, seen=Observation(alive=True, ready=False, port_taken_by="nginx"), failures=2),
            Step(Action.END, Event.START_FAILED),
        ),
        (Facts("Running", EndpointState.STOPPED, has_replica=False), Step(Action.WAIT, Event.START)),
        (Facts("Running", EndpointState.SLEEPING, has_replica=False), Step(Action.WAIT)),
        (Facts("Running", EndpointState.SLEEPING, has_replica=False, asked_for=True), Step(Action.WAIT, Event.WAKE)),
        (Facts("Stopped", EndpointState.SLEEPING, has_replica=False, asked_for=True), Step(Action.WAIT, Event.STOPPED)),
        (Facts("Running", EndpointState.RUNNING, True, seen=ALIVE, idle=True), Step(Action.END, Event.SLEEP)),
        (
            Facts("Running", EndpointState.RUNNING, True, seen=Observation(alive=False), idle=True, ever_ready=True),
            Step(Action.END, Event.CRASHED),
        ),
        (Facts("Running", EndpointState.RUNTIME_ERROR, has_replica=False), Step(Action.WAIT)),
        (Facts("Stopped", EndpointState.RUNTIME_ERROR, has_replica=False), Step(Action.WAIT, Event.STOPPED)),
        (Facts("Running", EndpointState.DEPLOYING, has_replica=False, retry_in_s=3), Step(Action.WAIT)),
        (Facts("Running", EndpointState.DEPLOYING, has_replica=False), Step(Action.LAUNCH)),
        (Facts("Running", EndpointState.RUNNING, has_replica=False), Step(Action.WAIT, Event.LOST)),
    ],
)
def test_decisions(facts: Facts, step: Step):
    assert decide(replace(facts, start_timeout_s=20), POLICY) == step


class Engine:
    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.leader = True
        self.helpers = 1
        self.ready = False
        self.port_taken_by: str | None = None
        self.age_s = 0.0

    @property
    def members(self) -> int:
        return self.leader + self.helpers


class Endpoint(RuleBasedStateMachine):
    """One endpoint: what is on disk (survives a kill of the controller) and what really runs (survives it too)."""

    numbers = itertools.count(1)

    @initialize()
    def create(self) -> None:
        self.desired = "Running"
        self.state = EndpointState.BUILDING
        self.generation = 1
        self.recorded: int | None = None  # launch id in the record
        self.launched_for = 0
        self.ever_ready = False
        self.failures = 0
        self.retry_in_s = 0.0
        self.engines: dict[int, Engine] = {}  # every engine that was ever started, by launch id
        self.rebooted: set[int] = set()
        self.idle = False
        self.asked_for = False
        self.evicted = False

    # wishes

    def _wish_running(self) -> None:
        self.generation += 1
        self.desired = "Running"
        self.state = next_state(self.state, Event.START)
        self.ever_ready, self.failures, self.retry_in_s = False, 0, 0.0

    @rule()
    def restart_or_new_spec(self) -> None:
        self._wish_running()

    @rule()
    def start(self) -> None:
        if self.desired == "Stopped" or self.state in FAILED_STATES:
            self._wish_running()

    @rule()
    def stop(self) -> None:
        self.desired = "Stopped"

    # the world

    @rule()
    def its_accelerators_are_wanted(self) -> None:
        self.evicted = self.recorded is not None

    @rule(idle=st.booleans())
    def calls_come_or_do_not(self, idle: bool) -> None:
        self.idle = idle
        self.asked_for = not idle and self.state is EndpointState.SLEEPING

    @rule(helpers_stay=st.booleans())
    def engine_dies(self, helpers_stay: bool) -> None:
        for engine in self.engines.values():
            engine.leader = False
            engine.helpers = engine.helpers if helpers_stay else 0

    @rule()
    def engine_loads(self) -> None:
        for engine in self.engines.values():
            engine.ready = engine.leader

    @rule()
    def port_is_stolen(self) -> None:
        for engine in self.engines.values():
            if engine.leader and not engine.ready:
                engine.port_taken_by = "nginx (pid 7)"

    @rule()
    def machine_restarts(self) -> None:
        self.rebooted |= set(self.engines)
        for engine in self.engines.values():
            engine.leader, engine.helpers = False, 0

    @rule(seconds=st.sampled_from([0.5, 3.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.retry_in_s = max(0.0, self.retry_in_s - seconds)
        for engine in self.engines.values():
            engine.age_s += seconds

    # the controller

    def _facts(self) -> Facts:
        engine = self.engines.get(self.recorded) if self.recorded is not None else None
        seen = None
        if self.recorded is not None:
            lost = engine is None or self.recorded in self.rebooted
            if engine is None or not engine.leader:
                seen = Observation(alive=False, lost=lost)
            else:
                taken_by = engine.port_taken_by
                seen = Observation(alive=True, ready=engine.ready and not taken_by, port_taken_by=taken_by)
        return Facts(
            desired=self.desired,
            state=self.state,
            has_replica=self.recorded is not None,
            outdated=self.recorded is not None and self.launched_for < self.generation,
            seen=seen,
            ever_ready=self.ever_ready,
            failures=self.failures,
            since_launch_s=engine.age_s if engine else 0.0,
            start_timeout_s=20.0,
            retry_in_s=self.retry_in_s,
            evicted=self.evicted,
            idle=self.idle and self.state is EndpointState.RUNNING,
            asked_for=self.asked_for,
        )

    def _event(self, event: Event) -> None:
        self.state = next_state(self.state, event)
        if event is Event.READY:
            self.ever_ready = True
        if event is Event.CRASHED:
            self.failures += 1
            self.retry_in_s = POLICY.delay_s(self.failures)
        if event is Event.START:
            self.ever_ready, self.failures, self.retry_in_s = False, 0, 0.0
        if event in (Event.SLEEP, Event.WAKE):
            self.asked_for, self.failures, self.retry_in_s = False, 0, 0.0

    def _step(self, killed_after: int = 99) -> Action:
        """One step; the controller is killed after so many of its writes and acts."""
        facts = self._facts()
        step = decide(facts, POLICY)
        acts = []
        if step.action is Action.END:
            acts += [self._end, self._drop]
        if step.action is Action.LAUNCH:
            acts += [self._write_replica, self._spawn]
        if step.event is not None:
            acts.append(lambda: self._event(step.event))
            if step.event is Event.LOST and facts.seen is not None and facts.seen.port_taken_by:
                self.failures += 1
        for act in acts[:killed_after]:
            act()
        return step.action

    def _end(self) -> None:
        engine = self.engines.get(self.recorded)
        if engine is not None:
            engine.leader, engine.helpers = False, 0

    def _drop(self) -> None:
        self.recorded = None
        self.evicted = False

    def _write_replica(self) -> None:
        self._event(Event.PREPARED)
        self.recorded, self.launched_for = next(self.numbers), self.generation

    def _spawn(self) -> None:
        self.engines[self.recorded] = Engine(self.launched_for)

    @rule(killed_after=st.integers(0, 4))
    def tick(self, killed_after: int) -> None:
        self._step(killed_after)

    @rule()
    def controller_is_stopped(self) -> None:
        """As the controller does on SIGTERM: every engine ends, what is wanted stays."""
        if self.recorded is not None:
            self._end()
            self._drop()
            self._event(Event.STOPPED)

    @rule()
    def things_go_well(self) -> None:
        for _ in range(4):
            self.engine_loads()
            self.time_passes(1.0)
            self._step()

    # what must hold

    @invariant()
    def nothing_runs_that_no_record_claims(self) -> None:
        if hasattr(self, "engines"):
            running = [launch for launch, engine in self.engines.items() if engine.members]
            assert running in ([], [self.recorded]), f"{running} run, the record claims {self.recorded}"

    @invariant()
    def running_is_claimed_only_with_a_replica(self) -> None:
        if hasattr(self, "engines") and self.state is EndpointState.RUNNING:
            assert self.ever_ready

    def teardown(self) -> None:
        """Left alone, with engines that load, the endpoint settles where it was asked to be."""
        if not hasattr(self, "engines"):
            return
        self.asked_for = not self.idle and self.state is EndpointState.SLEEPING
        for _ in range(60):
            for engine in self.engines.values():
                engine.ready = engine.leader
            self.time_passes(5.0)
            self._step()
        running = [launch for launch, engine in self.engines.items() if engine.members]
        if self.desired == "Stopped":
            assert self.state is EndpointState.STOPPED
            assert not running
        elif self.state in FAILED_STATES or (self.idle and self.state is EndpointState.SLEEPING):
            assert not running
        else:
            assert self.state is EndpointState.RUNNING
            assert running == [self.recorded]
            assert self.launched_for == self.generation
        if self.state not in WITH_REPLICA - {EndpointState.SLEEPING}:  # nothing here wakes by itself
            assert self.recorded is None


Endpoint.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestEndpoint = Endpoint.TestCase
