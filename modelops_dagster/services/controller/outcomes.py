"""What an event leaves in an endpoint's record, and the sentences that tell people about it."""

import signal
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.endpoints import Replica, ReplicaRecord
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.lifecycle import Event, Observation, next_state

SHOWN_LINES = 40

_CLEAN: dict[str, Any] = {
    "condition": None,
    "reason": None,
    "message": "",
    "log_tail": "",
    "retry_at": None,
    "resting": False,
    "waits_for": "",
    "addresses": (),
}


def after(record: ReplicaRecord, event: Event) -> dict[str, Any]:
    """A replica's changed fields once `event` happened to it; the caller adds reasons and sentences."""
    now = datetime.now(UTC)
    state = next_state(record.state, event)
    changes: dict[str, Any] = {"state": state}
    if state is not record.state:
        changes["since"] = now
    if event is Event.START:
        changes |= {**_CLEAN, "restarts": 0, "failures": 0, "ever_ready": False, "start_seconds": None}
    elif event is Event.STOPPED:
        changes |= {**_CLEAN, "failures": 0, "ever_ready": False}
    elif event in (Event.SLEEP, Event.WAKE, Event.RESUMED):
        # it has been ready before: a start that fails after this is tried again, and how long one takes stays known
        changes |= {**_CLEAN, "failures": 0}
    elif event is Event.PREPARED:
        changes |= {"retry_at": None, "waits_for": ""}
        changes |= {"condition": None, "message": ""} if record.condition == "Preempted" else {}
    elif event is Event.PREEMPTED:
        told = "It was ended to make room for work of a higher priority; it starts again when there is room."
        changes |= {"condition": "Preempted", "message": told, "resting": False}
    elif event is Event.READY and record.replica is not None:
        changes |= {
            **_CLEAN,
            "ever_ready": True,
            "start_seconds": round((now - record.replica.launched_at).total_seconds(), 3),
            "engine_version": record.replica.engine_version,
        }
    elif event in (Event.START_FAILED, Event.GAVE_UP, Event.BUILD_FAILED):
        changes |= {"condition": None, "retry_at": None}
    return changes


def describe(
    spec: EndpointSpec,
    record: ReplicaRecord,
    seen: Observation | None,
    timed_out: bool,
    reason: FailureReason,
    cause: str,
) -> str:
    """Why the engine is gone: how it ended, what caused it, and the command that shows the rest."""
    if spec.is_external:
        detail = (seen.detail if seen else "") or "it does not answer"
        return f"{detail[0].upper()}{detail[1:]}. Correct it, then `modelops endpoints start {spec.name}`."
    if timed_out:
        limit_s = record.replica.start_timeout_s if record.replica else 0.0
        how = f"was not ready within {limit_s:g} s"
    else:
        how = _ended(seen.exit_code if seen else None) + ("" if record.ever_ready else " before it was ready")
    logs = f"`modelops endpoints logs {spec.name}` shows the rest."
    return f"Engine {spec.engine} {how} ({reason}). {cause.rstrip('.')}. {logs}"


def told(record: ReplicaRecord, seen: Observation) -> dict[str, Any]:
    """What changes in the record of an engine that does not answer, by what the cluster says about it."""
    if not seen.said:
        return {}
    condition = seen.condition or ("Unreachable" if record.state is EndpointState.RUNNING else record.condition)
    changed = (record.condition, record.message) != (condition, seen.said)
    return {"condition": condition, "message": seen.said} if changed else {}


def told_by_cluster(record: ReplicaRecord, seen: Observation, timed_out: bool) -> str:
    """Why the cluster could not bring the engine up."""
    limit_s = record.replica.placing_timeout_s if record.replica and timed_out else 0.0
    return f"It found no place within {limit_s:g} s. {seen.said}" if limit_s and not seen.placed else seen.said


def _ended(exit_code: int | None) -> str:
    if exit_code is None:
        return "ended"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def describe_silence(spec: EndpointSpec, seen: Observation) -> str:
    """Why nobody is sent to an engine that should be there."""
    if spec.is_external:
        return f"It does not answer: {seen.detail}. It is asked again."
    return f"The engine runs but does not answer: {seen.detail or 'its port is closed'}."


def describe_loss(replica: Replica, taken_by: str | None, said: str = "") -> str:
    """Why an engine is started again although it did nothing wrong; `said` is what a cluster tells about it."""
    if said:
        return f"{said} It starts again."
    if taken_by:
        return f"Port {replica.port} was taken by {taken_by} while the engine started; it starts again on another one."
    return "The engine went with a restart of the machine or of the controller; it starts again."


def last_lines(tail: str) -> str:
    return "\n".join(tail.splitlines()[-SHOWN_LINES:])


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
