"""The life of an endpoint: the transition table, and the one decision a controller takes again and again.

The controller knows what is wanted and looks at what is there; `decide` says what to do next. Both backends (processes
on this machine, Deployments on a cluster) are driven by it, so an endpoint has the same states wherever it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.endpoints import FAILED_STATES, Condition, EndpointState
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.values import Value

Desired = Literal["Running", "Stopped"]


class Event(StrEnum):
    """What happened to an endpoint."""

    START = "start"  # somebody asks for it: created, started, restarted, or given another spec
    PREPARED = "prepared"  # the engine's command, port and log are fixed
    BUILD_FAILED = "build failed"  # no command could be made: engine not installed, checkpoint not there
    LAUNCHED = "launched"  # an engine process exists
    READY = "ready"  # the served model name answers from the engine's own socket
    START_FAILED = "start failed"  # ended, or ran out of time, before it was ever ready
    CRASHED = "crashed"  # ended after it had been ready; it will be started again
    GAVE_UP = "gave up"  # crashed once too often
    LOST = "lost"  # gone through no fault of its own: the machine restarted, another program took the port
    PREEMPTED = "preempted"  # ended to make room for work of a higher priority; it starts again when there is room
    SLEEP = "sleep"  # nobody asks it anything
    WAKE = "wake"  # somebody asks a sleeping one
    RESUMED = "resumed"  # the autoscaler that took its last replica away makes one again
    STOPPED = "stopped"  # no process of it is left


_ANY: Mapping[Event, EndpointState] = MappingProxyType(
    {Event.START: EndpointState.BUILDING, Event.STOPPED: EndpointState.STOPPED}
)

TRANSITIONS: Mapping[EndpointState, Mapping[Event, EndpointState]] = MappingProxyType(
    {
        EndpointState.BUILDING: {
            **_ANY,
            Event.PREPARED: EndpointState.DEPLOYING,
            Event.BUILD_FAILED: EndpointState.BUILDING_FAILED,
        },
        EndpointState.DEPLOYING: {
            **_ANY,
            Event.PREPARED: EndpointState.DEPLOYING,
            Event.LAUNCHED: EndpointState.STARTUP,
            Event.BUILD_FAILED: EndpointState.DEPLOY_FAILED,
            Event.START_FAILED: EndpointState.DEPLOY_FAILED,
            Event.CRASHED: EndpointState.DEPLOYING,
            Event.GAVE_UP: EndpointState.RUNTIME_ERROR,
            Event.LOST: EndpointState.DEPLOYING,
            Event.PREEMPTED: EndpointState.DEPLOYING,
        },
        EndpointState.STARTUP: {
            **_ANY,
            Event.READY: EndpointState.RUNNING,
            Event.START_FAILED: EndpointState.DEPLOY_FAILED,
            Event.CRASHED: EndpointState.DEPLOYING,
            Event.GAVE_UP: EndpointState.RUNTIME_ERROR,
            Event.LOST: EndpointState.DEPLOYING,
            Event.PREEMPTED: EndpointState.DEPLOYING,
        },
        EndpointState.RUNNING: {
            **_ANY,
            Event.CRASHED: EndpointState.DEPLOYING,
            Event.GAVE_UP: EndpointState.RUNTIME_ERROR,
            Event.LOST: EndpointState.DEPLOYING,
            Event.PREEMPTED: EndpointState.DEPLOYING,
            Event.SLEEP: EndpointState.SLEEPING,
        },
        EndpointState.SLEEPING: {**_ANY, Event.WAKE: EndpointState.BUILDING, Event.RESUMED: EndpointState.DEPLOYING},
        EndpointState.STOPPED: dict(_ANY),
        EndpointState.BUILDING_FAILED: dict(_ANY),
        EndpointState.DEPLOY_FAILED: dict(_ANY),
        EndpointState.RUNTIME_ERROR: dict(_ANY),
    }
)
# In these states an engine process may exist; in every other one there is none, or it is being ended. A sleeping
# endpoint has something left only where an autoscaler wakes it.
WITH_REPLICA = frozenset(
    {EndpointState.DEPLOYING, EndpointState.STARTUP, EndpointState.RUNNING, EndpointState.SLEEPING}
)


def next_state(state: EndpointState, event: Event) -> EndpointState:
    """The state that `event` leads to.

    Raises:
        ValueError: the table has no such transition; the caller is wrong, not the user.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise ValueError(f"an endpoint in state {state} cannot meet the event {event!r}") from None


class RestartPolicy(Value):
    """How often, and how soon, an engine that ended after it had been ready is started again."""

    max_restarts: int = Field(default=3, ge=0, description="in a row; a long stable time sets the count back to 0")
    first_delay_s: float = Field(default=1.0, ge=0)
    factor: float = Field(default=4.0, ge=1)
    max_delay_s: float = Field(default=60.0, ge=0)
    stable_after_s: float = Field(default=600.0, gt=0, description="seconds of Running that clear the count")

    def delay_s(self, failures: int) -> float:
        """Seconds to wait before the start that follows the `failures`-th failure in a row (1 = the first)."""
        try:
            delay = self.first_delay_s * self.factor ** max(0, failures - 1)
        except OverflowError:
            return self.max_delay_s
        return min(self.max_delay_s, delay)


class Observation(Value):
    """What one look at an engine showed."""

    alive: bool = Field(description="its first process runs")
    lost: bool = Field(default=False, description="it never came to be, or the machine restarted since")
    exit_code: int | None = Field(default=None, description="negative: ended by that signal; None: alive or not known")
    ready: bool | None = Field(default=None, description="the served model name answers; None: not asked this time")
    port_taken_by: str | None = Field(default=None, description="another program listens where the engine should")
    wrong_name: bool = Field(default=False, description="the engine answers, under another name")
    in_use: bool = Field(default=False, description="somebody is connected to it; looked at when that matters")
    detail: str = Field(default="", description="why it is not ready, as the end of a sentence")
    # what only a cluster tells, which places engines and starts them again itself
    placed: bool = Field(default=True, description="its container runs, or has run")
    crashes: int = Field(default=0, description="times in a row that it ended and was started again where it is")
    asleep: bool = Field(default=False, description="an autoscaler took the last replica away")
    resumes: bool = Field(default=False, description="and makes one again by itself")
    condition: Condition | None = None
    reason: FailureReason | None = None
    said: str = Field(default="", description="why it is not ready, or not all of it is, as a sentence")
    urls: tuple[str, ...] = Field(default=(), description="of those that answer, where there are several in one place")


class Action(StrEnum):
    WAIT = "wait"
    LAUNCH = "launch"  # prepare and start an engine
    END = "end"  # end every process of the engine, then forget it


@dataclass(frozen=True)
class Facts:
    """Everything `decide` looks at. Times are seconds."""

    desired: Desired
    state: EndpointState
    has_replica: bool  # an engine was launched and not yet ended by the controller
    outdated: bool = False  # that engine was launched for an earlier wish
    seen: Observation | None = None  # None when there is no replica
    ever_ready: bool = False  # since somebody last asked for it
    failures: int = 0  # in a row
    since_launch_s: float = 0.0
    start_timeout_s: float = 600.0
    in_state_s: float = 0.0
    placing_timeout_s: float = 0.0  # of a cluster: to find a node and an image
    retry_in_s: float = 0.0  # until the next start is due
    retries: bool = False  # one is due, although it failed: of somebody else's engine only asking tells that it is back
    evicted: bool = False  # its accelerators are wanted for work of a higher priority
    idle: bool = False  # it may sleep, and nobody has asked it anything for its cool-down period
    asked_for: bool = False  # somebody has asked for it since it fell asleep


@dataclass(frozen=True)
class Step:
    """Do `action`; once it is done, `event` has happened. `timed_out` qualifies a failure."""

    action: Action
    event: Event | None = None
    timed_out: bool = False


def decide(facts: Facts, policy: RestartPolicy) -> Step:
    """The next step towards what is wanted. Doing it again after a crash in the middle is safe."""
    if facts.has_replica and (facts.desired == "Stopped" or facts.outdated or facts.state not in WITH_REPLICA):
        return Step(Action.END, Event.STOPPED if facts.desired == "Stopped" else None)
    if facts.desired == "Stopped":
        return Step(Action.WAIT, None if facts.state is EndpointState.STOPPED else Event.STOPPED)
    if facts.state is EndpointState.SLEEPING and facts.has_replica:
        rests = facts.seen is None or facts.seen.asleep
        return Step(Action.WAIT, None if rests else Event.RESUMED)
    if facts.state is EndpointState.SLEEPING:
        return Step(Action.WAIT, Event.WAKE if facts.asked_for else None)
    if facts.state in FAILED_STATES:
        return Step(Action.WAIT, Event.START if facts.retries and facts.retry_in_s <= 0 else None)
    if facts.state is EndpointState.STOPPED:
        return Step(Action.WAIT, Event.START)
    if facts.has_replica and facts.seen is not None:
        return _watch(facts, facts.seen, policy)
    if facts.state in (EndpointState.STARTUP, EndpointState.RUNNING):
        return Step(Action.WAIT, Event.LOST)
    return Step(Action.LAUNCH) if facts.retry_in_s <= 0 else Step(Action.WAIT)


def _watch(facts: Facts, seen: Observation, policy: RestartPolicy) -> Step:
    """The step for an engine that should be there."""
    if seen.lost:
        return Step(Action.END, Event.LOST)
    if facts.evicted:
        return Step(Action.END, Event.PREEMPTED)
    if not seen.alive:
        return Step(Action.END, failure_event(facts.ever_ready, facts.failures, policy))
    if seen.crashes > (policy.max_restarts if facts.ever_ready else 0):
        return Step(Action.END, Event.GAVE_UP if facts.ever_ready else Event.START_FAILED)
    if facts.state is EndpointState.DEPLOYING:
        return _place(facts, seen, policy)
    if not seen.placed:
        if not seen.asleep or facts.state is not EndpointState.RUNNING:
            return Step(Action.WAIT, Event.LOST)
        return Step(Action.WAIT if seen.resumes else Action.END, Event.SLEEP)
    if facts.state is EndpointState.RUNNING:
        return Step(Action.END, Event.SLEEP) if facts.idle else Step(Action.WAIT)
    if seen.port_taken_by is not None:
        retry = facts.failures < policy.max_restarts
        return Step(Action.END, Event.LOST if retry else failure_event(facts.ever_ready, facts.failures, policy))
    if seen.ready:
        return Step(Action.WAIT, Event.READY)
    if facts.since_launch_s > facts.start_timeout_s:
        return Step(Action.END, failure_event(facts.ever_ready, facts.failures, policy), timed_out=True)
    return Step(Action.WAIT)


def _place(facts: Facts, seen: Observation, policy: RestartPolicy) -> Step:
    """The step for an engine that should be brought to a place; on this machine it is there at once."""
    if seen.placed:
        return Step(Action.WAIT, Event.LAUNCHED)
    if facts.in_state_s > facts.placing_timeout_s:
        return Step(Action.END, failure_event(facts.ever_ready, facts.failures, policy), timed_out=True)
    return Step(Action.WAIT)


def failure_event(ever_ready: bool, failures: int, policy: RestartPolicy) -> Event:
    """What the end of an engine means. One that was never ready is not tried again: the ladder wants its reason."""
    if not ever_ready:
        return Event.START_FAILED
    return Event.CRASHED if failures < policy.max_restarts else Event.GAVE_UP
