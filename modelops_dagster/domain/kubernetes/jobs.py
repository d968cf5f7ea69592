"""What a cluster's facts mean for a research job: where it stands, and its attempts, one for each pod."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from modelops_dagster.domain.kubernetes.disruptions import DELETED, disruption, taken_for
from modelops_dagster.domain.kubernetes.facts import container_times, look
from modelops_dagster.domain.kubernetes.quotas import refused_pod
from modelops_dagster.domain.kubernetes.research import CONTAINER
from modelops_dagster.domain.research import Attempt, JobState, ResearchJob

Manifest = Mapping[str, Any]
KUEUE = "Kueue, which needs the room for others"


@dataclass(frozen=True)
class JobNow:
    """Where a job stands."""

    state: JobState
    message: str
    exit_code: int | None = None


@dataclass(frozen=True)
class RefusedPod:
    """What the cluster said last of a pod that it did not make, and when, UTC."""

    message: str
    at: datetime

    def holds_for(self, last: Attempt | None) -> bool:
        """Whether it was said of the pod that would follow the last attempt; the cluster tells whole seconds."""
        return last is None or last.ended_at is None or self.at + timedelta(seconds=1) > last.ended_at


def attempts_now(
    known: Sequence[Attempt],
    pods: Sequence[Manifest],
    gpus: int,
    now: datetime,
    *,
    suspended: bool = False,
    ending: Literal["ended", "cancelled"] | None = None,
) -> tuple[Attempt, ...]:
    """The attempts of a job, with what its pods tell: begun, about to be taken away, ended.

    Args:
        known: as they were at the last look.
        pods: of the job.
        gpus: of one pod.
        suspended: Kueue took the job's room back, so a pod that goes was evicted.
        ending: the job is over, or is being cancelled, so a pod that goes was not taken away.
    """
    seen = {str(pod["metadata"]["name"]): pod for pod in pods}
    attempts = list(known)
    for name, pod in seen.items():
        began, _ = container_times(pod)
        if began is not None and all(a.pod != name for a in known):
            node = str((pod.get("spec") or {}).get("nodeName") or "node")
            devices = tuple(f"{node}/{n}" for n in range(gpus))
            attempts.append(Attempt(started_at=began, devices=devices, pod=name))
    told = (_told(a, seen.get(a.pod), now, suspended, ending) if a.ended_at is None else a for a in attempts)
    return tuple(sorted(told, key=lambda a: a.started_at))


def _told(
    attempt: Attempt,
    pod: Manifest | None,
    now: datetime,
    suspended: bool,
    ending: Literal["ended", "cancelled"] | None,
) -> Attempt:
    # a pod that a job's own end takes along carries no condition
    evicted = ending is None or (ending == "ended" and pod is not None and disruption(pod) is not None)
    by = taken_for(pod) if evicted else None
    if ending == "ended" and attempt.by == DELETED:
        attempt = attempt.model_copy(update={"by": ""})  # it was the job's end that deleted it
    if by is not None:
        attempt = attempt.model_copy(update={"by": attempt.by or (KUEUE if suspended else by)})
    _, ended = container_times(pod) if pod is not None else (None, now)
    if ended is None and pod is not None and is_over(pod):
        ended = now  # its node ended it, and says no time
    if ended is None:
        return attempt
    outcome = "cancelled" if ending == "cancelled" else "preempted" if attempt.by else "ended"
    return attempt.model_copy(update={"ended_at": ended, "outcome": outcome})


def is_over(pod: Manifest) -> bool:
    """Whether it has ended, and says how."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def job_now(job: ResearchJob, live: Manifest, pods: Sequence[Manifest], refused: RefusedPod | None = None) -> JobNow:
    """Where the job stands.

    Args:
        job: with its attempts as they are now.
        live: the Job on the cluster.
        pods: of it.
        refused: a pod that it has not got, where that was said.
    """
    conditions = {c["type"]: c for c in (live.get("status") or {}).get("conditions") or [] if c["status"] == "True"}
    if "Complete" in conditions:
        return JobNow(JobState.SUCCEEDED, "Done.", 0)
    if "Failed" in conditions:
        return _failed(job, conditions["Failed"], pods)
    last = job.attempts[-1] if job.attempts else None
    if last is not None and last.ended_at is None:
        if last.by:
            return JobNow(JobState.STOPPING, f"It makes room for {last.by}.")
        return JobNow(JobState.RUNNING, "")
    said = []
    if last is not None and last.by:
        said.append(f"Preempted by {last.by}; it resumes when there is room.")
    if (live.get("spec") or {}).get("suspend"):
        said.append("It waits until Kueue admits it.")
    said += [trouble.said for pod in pods if not is_over(pod) and (trouble := look(pod, CONTAINER)) is not None]
    if refused is not None and refused.holds_for(last):
        said.append(refused_pod(refused.message))
    return JobNow(JobState.QUEUED, " ".join(said) or "The cluster has made no pod yet.")


def _failed(job: ResearchJob, condition: Manifest, pods: Sequence[Manifest]) -> JobNow:
    code = next((code for pod in reversed(pods) if (code := _exit_code(pod)) is not None), None)
    if condition.get("reason") == "DeadlineExceeded":
        return JobNow(JobState.FAILED, f"It ran for longer than its {job.request.max_hours:g} hours.", code)
    if code is not None:
        more = f"`modelops research logs {job.job_id}` says more."
        return JobNow(JobState.FAILED, f"It ended with exit code {code}; {more}", code)
    told = str(condition.get("message") or condition.get("reason") or "no reason given").rstrip(".")
    return JobNow(JobState.FAILED, f"The cluster gave it up: {told}.")


def _exit_code(pod: Manifest) -> int | None:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    ended = next((s["state"]["terminated"] for s in statuses if (s.get("state") or {}).get("terminated")), None)
    if ended is None:
        return None
    code = int(ended.get("exitCode", 0))
    return 128 - code if code > 128 else code  # exit codes above 128 are signals, as shells count them
