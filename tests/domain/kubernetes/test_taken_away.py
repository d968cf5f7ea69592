"""Pods that a cluster takes away, and what that makes of a step and of a research job."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelops_dagster.domain.kubernetes import Site
from modelops_dagster.domain.kubernetes.disruptions import taken_for
from modelops_dagster.domain.kubernetes.jobs import KUEUE, RefusedPod, attempts_now, job_now
from modelops_dagster.domain.kubernetes.pods import CONTAINER
from modelops_dagster.domain.kubernetes.steps import retry_delay_s, step_end
from modelops_dagster.domain.research import JobRequest, JobState, ResearchJob

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEGAN = "2026-01-01T11:00:00Z"


def pod(
    state: dict[str, Any] | None = None, *, reason: str = "", deleted: bool = False, name: str = "p", **status: Any
) -> dict[str, Any]:
    """A pod with one container; `reason` is that of its disruption."""
    metadata = {"name": name} | ({"deletionTimestamp": "2026-01-01T12:00:00Z"} if deleted else {})
    conditions = [{"type": "PodScheduled", "status": "True"}]
    conditions += [{"type": "DisruptionTarget", "status": "True", "reason": reason}] if reason else []
    statuses = [{"name": CONTAINER, "state": state}] if state else []
    told = {"phase": "Running", "conditions": conditions, "containerStatuses": statuses, **status}
    return {"metadata": metadata, "spec": {"nodeName": "n"}, "status": told}


RUNNING = {"running": {"startedAt": BEGAN}}


def ended(code: int, **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "startedAt": BEGAN, "finishedAt": "2026-01-01T11:30:00Z", **more}}


@pytest.mark.parametrize(
    ("seen", "by"),
    [
        (None, "somebody who deleted it"),
        (pod(RUNNING), None),
        (pod(ended(1), phase="Failed"), None),
        (pod(RUNNING, deleted=True), "somebody who deleted it"),
        (pod(RUNNING, reason="PreemptionByScheduler", deleted=True), "a workload of higher priority"),
        (pod(RUNNING, reason="DeletionByTaintManager"), "the loss of its node"),
        (pod(RUNNING, reason="SomethingNew"), "SomethingNew"),
        (pod(phase="Failed"), "its node (it did not take it)"),
    ],
)
def test_for_whom_a_pod_is_taken_away(seen: dict[str, Any] | None, by: str | None):
    assert taken_for(seen) == by


@pytest.mark.parametrize(
    ("reason", "message", "by"),
    [
        ("Evicted", "The node was low on resource: memory. ", "its node (The node was low on resource: memory)"),
        ("OutOfnvidia.com/gpu", "Node didn't have enough resource", "its node (Node didn't have enough resource)"),
        ("NodeShutdown", "", "its node (NodeShutdown)"),
        ("DeadlineExceeded", "Pod was active longer than its deadline", None),
    ],
)
def test_a_node_that_ends_a_pod_or_does_not_admit_it_is_no_failure_of_the_pod(
    reason: str, message: str, by: str | None
):
    found = pod(phase="Failed")
    found["status"] |= {"reason": reason, "message": message}
    assert taken_for(found) == by


def test_what_became_of_a_step():
    late = pod(ended(137), phase="Failed")
    late["status"]["reason"] = "DeadlineExceeded"
    assert step_end(late).kind == "late"
    assert step_end(None).kind == "taken"
    assert step_end(pod(ended(137, reason="OOMKilled"), phase="Failed")).kind == "out_of_memory"
    crashed = step_end(pod(ended(3), phase="Failed"))
    assert (crashed.kind, crashed.said) == ("ended", "The engine ended with exit code 3")
    pulling = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    assert step_end(pod(pulling)).kind == "ended"
    assert step_end(pod({"waiting": {"reason": "ImagePullBackOff"}})).kind == "no_image"


def test_pods_are_made_again_later_and_later():
    assert [retry_delay_s(Site(), taken) for taken in (1, 2, 3, 9)] == [30, 60, 120, 600]


def test_an_attempt_is_a_pod_from_its_beginning_to_its_end():
    (attempt,) = attempts_now((), [pod(RUNNING)], 2, NOW)
    assert (attempt.pod, attempt.devices, attempt.ended_at) == ("p", ("n/0", "n/1"), None)
    (leaving,) = attempts_now((attempt,), [pod(RUNNING, reason="PreemptionByScheduler", deleted=True)], 2, NOW)
    assert (leaving.by, leaving.outcome) == ("a workload of higher priority", None)
    (gone,) = attempts_now((leaving,), [], 2, NOW)
    assert (gone.outcome, gone.gpu_hours, gone.lost_gpu_hours) == ("preempted", 2.0, 2.0)
    first, second = attempts_now((gone,), [pod(ended(0), name="q", phase="Succeeded")], 2, NOW)
    assert first == gone, "what is over stays as it was"
    assert (second.outcome, second.gpu_hours) == ("ended", 1.0)


@pytest.mark.parametrize(
    ("given", "outcome", "by"),
    [
        ({"suspended": True}, "preempted", KUEUE),
        ({"ending": "ended"}, "ended", ""),
        ({"ending": "cancelled"}, "cancelled", ""),
        ({}, "preempted", "somebody who deleted it"),
    ],
)
def test_a_pod_that_is_only_gone_is_judged_by_what_became_of_its_job(given: dict[str, Any], outcome: str, by: str):
    known = attempts_now((), [pod(RUNNING)], 1, NOW)
    (gone,) = attempts_now(known, [], 1, NOW, **given)
    assert (gone.outcome, gone.by, gone.ended_at) == (outcome, by, NOW)


def test_the_end_of_a_job_takes_back_what_was_thought_of_its_deleted_pod():
    known = attempts_now((), [pod(RUNNING, deleted=True)], 1, NOW)
    assert known[0].by == "somebody who deleted it"
    (over,) = attempts_now(known, [], 1, NOW + timedelta(seconds=5), ending="ended")
    assert (over.outcome, over.by) == ("ended", "")


def test_where_a_job_stands():
    request = JobRequest(command=("x",), owner="ada", gpus=1, image="a/b:1")
    job = ResearchJob(job_id="job-20260101-abcdef", request=request, state="Queued", since=NOW, created_at=NOW)

    def at(*pods: dict[str, Any], condition: dict[str, Any] | None = None, **spec: Any) -> tuple[JobState, str]:
        status = {"conditions": [{"status": "True", **condition}]} if condition else {}
        known = job.model_copy(update={"attempts": attempts_now((), pods, 1, NOW)})
        found = job_now(known, {"spec": spec, "status": status}, pods)
        return found.state, found.message

    assert at() == (JobState.QUEUED, "The cluster has made no pod yet.")
    held = (
        'Error creating: pods "j-x" is forbidden: exceeded quota: few, requested: pods=1, used: pods=2, limited: pods=2'
    )
    refused = RefusedPod(held, NOW)
    sentence = "ResourceQuota few admits no further pod (it asks for 1 pods where 2 of 2 are taken): raise the quota"
    first = job_now(job, {}, [], refused)
    assert first.state is JobState.QUEUED
    assert first.message.startswith(sentence)
    (evicted,) = attempts_now((), [pod(ended(143), phase="Failed", reason="PreemptionByScheduler")], 1, NOW)
    again = job.model_copy(update={"attempts": (evicted,)})
    resumes = "Preempted by a workload of higher priority; it resumes when there is room."
    assert job_now(again, {}, [], refused).message.startswith(f"{resumes} {sentence}")
    of_the_first = RefusedPod(held, datetime.fromisoformat(BEGAN))
    assert job_now(again, {}, [], of_the_first).message == resumes, "it was said of the pod that ran since"
    unsafe = RefusedPod('Error creating: pods "j-x" is forbidden: violates PodSecurity "restricted".', NOW)
    told = 'The cluster makes no pod: pods "j-x" is forbidden: violates PodSecurity "restricted".'
    assert job_now(job, {}, [], unsafe).message == told
    assert at(suspend=True) == (JobState.QUEUED, "It waits until Kueue admits it.")
    assert at(pod(RUNNING)) == (JobState.RUNNING, "")
    leaving = pod(RUNNING, reason="EvictionByEvictionAPI", deleted=True)
    assert at(leaving) == (JobState.STOPPING, "It makes room for a drain of its node.")
    failed = {"type": "Failed", "reason": "BackoffLimitExceeded", "message": "too often."}
    assert at(condition=failed) == (JobState.FAILED, "The cluster gave it up: too often.")
    assert "exit code -9" in at(pod(ended(137), phase="Failed"), condition=failed)[1]
    late = {"type": "Failed", "reason": "DeadlineExceeded"}
    assert at(condition=late) == (JobState.FAILED, "It ran for longer than its 24 hours.")
    assert at(condition={"type": "Complete"})[0] is JobState.SUCCEEDED
