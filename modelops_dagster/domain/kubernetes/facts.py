"""What a cluster's facts mean: a workload and its pods become one observation, with the reason a person needs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.kubernetes.disruptions import PREEMPTED, disruption
from modelops_dagster.domain.kubernetes.pods import CONTAINER
from modelops_dagster.domain.kubernetes.queues import QUEUE_TRIGGERS
from modelops_dagster.domain.kubernetes.quotas import refused_pod
from modelops_dagster.domain.kubernetes.render import LEADER, ROLE_LABEL
from modelops_dagster.domain.lifecycle import Observation

Manifest = Mapping[str, Any]
_IMAGE = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_SHORT_OF = re.compile(r"(\d+) Insufficient ([A-Za-z0-9](?:[A-Za-z0-9./-]*[A-Za-z0-9])?)")
_OUT_OF_MEMORY = "OOMKilled"


@dataclass(frozen=True)
class Trouble:
    """Why one pod does not answer. A greater `rank` is further on its way."""

    rank: int
    said: str
    reason: FailureReason | None = None
    fatal: bool = False  # waiting does not help
    placed: bool = False  # its container runs, or has run
    crashes: int = 0
    exit_code: int | None = None


@dataclass(frozen=True)
class Seen:
    """Everything of one revision that is looked at."""

    workload: Manifest | None
    pods: Sequence[Manifest]
    scaler: Manifest | None = None


def observe(seen: Seen) -> Observation:
    """The state of one revision of an endpoint."""
    workload = seen.workload
    if workload is None:
        return Observation(alive=False, lost=True, said="Its workload is not on the cluster any more.")
    if "deletionTimestamp" in workload["metadata"]:
        return Observation(alive=False, lost=True, said="Somebody deletes its workload.")
    answering = [p for p in seen.pods if _answers(p)]
    wanted = int((workload.get("spec") or {}).get("replicas", 1))
    ready = [p for p in answering if is_ready(p)]
    troubles = [trouble for p in seen.pods if not is_ready(p) and (trouble := look(p)) is not None]
    unmade = _unmade(workload)
    if ready:
        said = _degraded(len(ready), wanted, troubles if unmade is None else [unmade, *troubles]) or _scaler_trouble(
            seen.scaler
        )
        return Observation(alive=True, ready=True, condition="Degraded" if said else None, said=said)
    if wanted == 0:
        return Observation(alive=True, ready=False, asleep=True, placed=False, resumes=_by_queue(seen.scaler))
    preempted = any(disruption(p) == PREEMPTED for p in seen.pods)
    worst = max(troubles, key=_severity, default=None) or unmade or Trouble(0, _no_pod_yet(workload))
    return Observation(
        alive=not worst.fatal,
        ready=False,
        placed=worst.placed,
        crashes=worst.crashes,
        exit_code=worst.exit_code,
        reason=worst.reason,
        condition="Preempted" if preempted else None,
        said=worst.said,
    )


def replica_urls(pods: Sequence[Manifest], port: int) -> tuple[str, ...]:
    """Base URLs of the pods that take requests, ending in /v1; none where the Service leads to the only one anyway.

    The API server knows of a lost node late, and a Service leads there meanwhile: who knows the pods themselves makes a
    call again at another one, and gives the next call to the least busy.
    """
    hosts = sorted(str(p["status"]["podIP"]) for p in pods if _answers(p) and is_ready(p) and p["status"].get("podIP"))
    if len(hosts) < 2:
        return ()
    return tuple(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1" for host in hosts)


def telling_pod(pods: Sequence[Manifest]) -> Manifest | None:
    """The pod whose log tells most: the one that failed, else the one that is furthest."""
    answering = [p for p in pods if _answers(p) and not _is_over(p)]
    troubled = [(trouble, p) for p in answering if not is_ready(p) and (trouble := look(p)) is not None]
    if troubled:
        return max(troubled, key=lambda found: _severity(found[0]))[1]
    return answering[0] if answering else None


def _severity(trouble: Trouble) -> tuple[bool, int]:
    return trouble.fatal, trouble.rank


def is_ready(pod: Manifest) -> bool:
    """Whether it takes requests."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(pod))


def look(pod: Manifest, container: str = CONTAINER) -> Trouble | None:
    """Why this pod does not answer; None where it is only being taken away."""
    name = pod["metadata"]["name"]
    why = disruption(pod)
    if "deletionTimestamp" in pod["metadata"]:
        if why is None:
            return None
        told = "for a workload of higher priority" if why == PREEMPTED else f"({why})"
        return Trouble(0, f"The cluster took pod {name} away {told}; it makes another.")
    if _is_over(pod):
        return Trouble(0, f"Its node ended pod {name} ({_ending(pod)}); the cluster makes another.")
    unplaced = _unplaced(pod)
    if unplaced is not None:
        return unplaced
    status = telling_status(pod, container)
    if status is None:
        return Trouble(3, f"Pod {name} is brought up: its image and volumes are fetched.")
    if status.get("ready"):
        # said by its node, and taken back by the cluster: the node says nothing any more
        node = pod["spec"]["nodeName"]
        said = f"Its node {node} does not answer; after a while the cluster makes its pods anew elsewhere."
        return Trouble(6, said, placed=True)
    return _container(name, status)


def telling_status(pod: Manifest, container: str = CONTAINER) -> Manifest | None:
    """The status of the container that keeps a pod from being ready: the engine, or once it is ready what is beside it.

    None before any container is there.
    """
    statuses: Sequence[Manifest] = (pod.get("status") or {}).get("containerStatuses") or []
    engine = next((s for s in statuses if s["name"] == container), None)
    if engine is None or not engine.get("ready"):
        return engine
    return next((s for s in statuses if not s.get("ready")), engine)


def container_times(pod: Manifest) -> tuple[datetime | None, datetime | None]:
    """When its container began and ended, UTC; None: it did not yet, or that is not told."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or [{}]
    state = statuses[0].get("state") or {}
    told = state.get("terminated") or state.get("running") or {}
    began, ended = told.get("startedAt"), told.get("finishedAt")
    return (datetime.fromisoformat(began) if began else None, datetime.fromisoformat(ended) if ended else None)


def _answers(pod: Manifest) -> bool:
    """A worker of a group computes and answers nobody."""
    return bool((pod["metadata"].get("labels") or {}).get(ROLE_LABEL, LEADER) == LEADER)


def _conditions(pod: Manifest) -> Sequence[Manifest]:
    return (pod.get("status") or {}).get("conditions") or []


def _is_over(pod: Manifest) -> bool:
    """Whether its node ended it for good: short of memory or disk, shut down, or what it was promised was not there.

    A pod whose container ended by itself carries no reason.
    """
    status = pod.get("status") or {}
    return status.get("phase") == "Failed" and bool(status.get("reason") or not status.get("containerStatuses"))


def _ending(pod: Manifest) -> str:
    status = pod["status"]
    told = f"{status.get('reason') or 'Failed'}: {status.get('message') or ''}"
    return " ".join(told.split()).rstrip(".: ")


def _unplaced(pod: Manifest) -> Trouble | None:
    """Why it is on no node."""
    name = pod["metadata"]["name"]
    condition = next((c for c in _conditions(pod) if c["type"] == "PodScheduled" and c["status"] == "False"), None)
    if condition is None:
        return None if _conditions(pod) else Trouble(1, f"Pod {name} waits for the scheduler.")
    if condition.get("reason") == "SchedulingGated":
        return Trouble(1, "It waits until Kueue admits it.", "unschedulable")
    return Trouble(2, no_room(str(condition.get("message", ""))), "unschedulable")


def no_room(message: str) -> str:
    """The scheduler's message as a sentence that names the resource first."""
    short = [f"{resource} ({counted(int(count), 'node')})" for count, resource in _SHORT_OF.findall(message)]
    told = message.rstrip(". ")
    if short:
        return f"No node has room: too little {', '.join(short)}; the scheduler says: {told}."
    return f"No node takes it; the scheduler says: {told}."


def _container(pod: str, status: Manifest) -> Trouble:
    state = status.get("state") or {}
    waiting, ended = state.get("waiting"), state.get("terminated")
    last = ended or (status.get("lastState") or {}).get("terminated")
    restarts = int(status.get("restartCount", 0))
    if waiting is not None and waiting.get("reason") in _IMAGE | _CONFIG:
        image = waiting["reason"] in _IMAGE
        what = f"Image {status.get('image') or ''} cannot be pulled" if image else "Its container cannot be made"
        said = f"{what} ({waiting['reason']}): {str(waiting.get('message', '')).rstrip('.')}."
        return Trouble(4, said, "no_image" if image else "bad_config", fatal=True)
    if last is not None:
        return _crashed(status["name"], last, restarts + (ended is not None), waiting)
    if waiting is not None:
        said = f"{waiting.get('reason', 'It waits')}: {waiting.get('message', '')}".rstrip(": ").rstrip(".")
        return Trouble(3, f"Pod {pod} is brought up ({said}).")
    if status.get("started"):
        return Trouble(6, "Its engine runs and does not pass its readiness probe.", placed=True)
    return Trouble(5, "", placed=True)  # it loads, as it should


def _crashed(name: str, last: Manifest, crashes: int, waiting: Manifest | None) -> Trouble:
    code = int(last.get("exitCode", 0))
    memory = last.get("reason") == _OUT_OF_MEMORY
    why = "was ended for using more memory than its limit" if memory else f"ended with exit code {code}"
    times = f", {crashes} times in a row" if crashes > 1 else ""
    back_off = f" ({waiting['reason']})" if waiting is not None and waiting.get("reason") else ""
    reason: FailureReason = "out_of_memory" if memory else "crash"
    said = f"The {name} {why}{times}{back_off}."
    # exit codes above 128 are signals, as shells count them; here a signal is negative
    signed = 128 - code if code > 128 else code
    return Trouble(7, said, reason, placed=True, crashes=crashes, exit_code=signed)


def _degraded(ready: int, wanted: int, troubles: Sequence[Trouble]) -> str:
    if ready >= wanted:
        return ""
    worst = max(troubles, key=lambda t: (t.fatal, t.crashes, -t.rank), default=None)
    return f"{ready} of {wanted} replicas answer. {worst.said if worst else ''}".rstrip()


def _by_queue(scaler: Manifest | None) -> bool:
    """Whether what it follows is there when no replica is."""
    triggers = ((scaler or {}).get("spec") or {}).get("triggers") or []
    return any(trigger["type"] in QUEUE_TRIGGERS for trigger in triggers)


def _scaler_trouble(scaler: Manifest | None) -> str:
    conditions = ((scaler or {}).get("status") or {}).get("conditions") or []
    bad = next((c for c in conditions if c["type"] == "Ready" and c["status"] == "False"), None)
    return f"Its autoscaler does not work: {str(bad.get('message', '')).rstrip('.')}." if bad else ""


def _unmade(workload: Manifest) -> Trouble | None:
    """Why there are fewer pods than there should be; None where nothing keeps the cluster from making them."""
    conditions = (workload.get("status") or {}).get("conditions") or []
    failed = next((c for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    return None if failed is None else Trouble(2, refused_pod(str(failed.get("message", ""))), "unschedulable")


def _no_pod_yet(workload: Manifest) -> str:
    """A Deployment carries the reason where there is one; the StatefulSet of a group tells it in events alone."""
    if workload.get("kind") != "LeaderWorkerSet":
        return "The cluster has made no pod yet."
    name = workload["metadata"]["name"]
    return f"The cluster has made no pod yet; should that last, `kubectl describe statefulset {name}` tells why."
