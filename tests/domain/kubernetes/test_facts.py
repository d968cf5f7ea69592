"""What a cluster's facts mean, as a table: the statuses are those that kubelets and schedulers write."""

from typing import Any

import pytest

from modelops_dagster.domain.kubernetes.facts import Seen, no_room, observe, replica_urls, telling_pod, telling_status
from modelops_dagster.domain.lifecycle import Observation

IMAGE = "ghcr.io/acme/vllm:1"


def workload(replicas: int = 1, **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "x-r1"}, "spec": {"replicas": replicas}, "status": status}


def pod(name: str = "p", *, ready: bool = False, placed: bool = True, **container: Any) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
    status: dict[str, Any] = {"conditions": conditions if placed else []}
    if container:
        status["containerStatuses"] = [{"name": "engine", "image": IMAGE, "restartCount": 0, **container}]
    return {"metadata": {"name": name, "labels": {}}, "status": status}


def unplaced(reason: str, message: str) -> dict[str, Any]:
    item = pod(placed=False)
    item["status"]["conditions"] = [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]
    return item


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return pod(state={"waiting": {"reason": reason, "message": message}}, **more)


def see(*pods: dict[str, Any], replicas: int = 1) -> Observation:
    return observe(Seen(workload(replicas), pods))


ENDED = {"terminated": {"exitCode": 1, "reason": "Error"}}


@pytest.mark.parametrize(
    ("one", "alive", "placed", "reason", "said"),
    [
        (pod(placed=False), True, False, None, "waits for the scheduler"),
        (
            unplaced("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: no."),
            *(True, False, "unschedulable", "No node has room: too little nvidia.com/gpu (3 nodes)"),
        ),
        (
            unplaced("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"),
            *(True, False, "unschedulable", "until Kueue admits it"),
        ),
        (pod(), True, False, None, "its image and volumes are fetched"),
        (waiting("ContainerCreating"), True, False, None, "is brought up (ContainerCreating)"),
        (waiting("ErrImagePull", "not found"), True, False, None, "is brought up (ErrImagePull: not found)"),
        (
            waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"'),
            *(False, False, "no_image", f"Image {IMAGE} cannot be pulled (ImagePullBackOff): Back-off"),
        ),
        (
            waiting("CreateContainerConfigError", 'secret "x-env" not found'),
            *(False, False, "bad_config", 'Its container cannot be made (CreateContainerConfigError): secret "x-env"'),
        ),
        (pod(state={"running": {}}, started=False), True, True, None, ""),
        (pod(state={"running": {}}, started=True), True, True, None, "does not pass its readiness probe"),
    ],
)
def test_one_pod_that_does_not_answer(one: dict[str, Any], alive: bool, placed: bool, reason: str | None, said: str):
    seen = see(one)
    assert (seen.alive, seen.placed, seen.reason, seen.ready) == (alive, placed, reason, False)
    assert said in seen.said


@pytest.mark.parametrize(
    ("one", "crashes", "exit_code", "reason", "said"),
    [
        (pod(state=ENDED), 1, 1, "crash", "The engine ended with exit code 1."),
        (
            waiting("CrashLoopBackOff", lastState=ENDED, restartCount=3),
            *(3, 1, "crash", "ended with exit code 1, 3 times in a row (CrashLoopBackOff)."),
        ),
        (
            pod(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            *(1, -9, "out_of_memory", "was ended for using more memory than its limit."),
        ),
        (pod(state={"running": {}}, lastState=ENDED, restartCount=2), 2, 1, "crash", "2 times in a row."),
    ],
)
def test_engine_that_ends_is_counted_with_how_it_ended(
    one: dict[str, Any], crashes: int, exit_code: int, reason: str, said: str
):
    seen = see(one)
    assert (seen.alive, seen.placed, seen.crashes, seen.exit_code) == (True, True, crashes, exit_code)
    assert seen.reason == reason
    assert said in seen.said


def test_one_that_answers_is_enough_and_the_rest_is_told():
    good, bad = pod("a", ready=True, state={"running": {}}), waiting("ImagePullBackOff", "not found")
    assert see(good) == Observation(alive=True, ready=True)
    seen = see(good, bad, replicas=2)
    assert (seen.ready, seen.condition, seen.crashes) == (True, "Degraded", 0)
    assert seen.said.startswith(f"1 of 2 replicas answer. Image {IMAGE} cannot be pulled")


def test_worker_that_is_ready_answers_nobody():
    worker = pod("w", ready=True, state={"running": {}})
    worker["metadata"]["labels"] = {"modelops.dev/role": "worker"}
    leader = pod("l", state={"running": {}})
    leader["metadata"]["labels"] = {"modelops.dev/role": "leader"}
    assert see(worker, leader).ready is False
    assert telling_pod([worker, leader]) is leader


def test_pod_taken_away_for_a_higher_priority_is_preempted_not_failed():
    gone = pod(state={"running": {}})
    gone["metadata"]["deletionTimestamp"] = "now"
    gone["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    )
    seen = see(gone)
    assert (seen.alive, seen.placed, seen.condition) == (True, False, "Preempted")
    assert "for a workload of higher priority" in seen.said


def test_pod_that_its_node_ended_is_replaced_and_no_crash_of_the_engine():
    over = pod("over", state={"terminated": {"exitCode": 137, "reason": "Error"}})
    over["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. "}
    seen = see(over)
    assert (seen.alive, seen.placed, seen.crashes, seen.reason) == (True, False, 0, None)
    assert seen.said == (
        "Its node ended pod over (Evicted: The node was low on resource: memory); the cluster makes another."
    )
    loading, good = pod("next", state={"running": {}}), pod("next", ready=True, state={"running": {}})
    assert see(over, loading) == see(loading), "it stays as a record beside the next one"
    assert see(over, good) == Observation(alive=True, ready=True)
    assert telling_pod([over, loading]) is loading
    assert telling_pod([over, good]) is good


def test_node_that_says_nothing_is_named():
    lost = pod(state={"running": {}}, started=True) | {"spec": {"nodeName": "node-a"}}
    lost["status"]["containerStatuses"][0]["ready"] = True
    seen = see(lost)
    assert (seen.alive, seen.placed, seen.ready, seen.crashes) == (True, True, False, 0)
    assert seen.said == "Its node node-a does not answer; after a while the cluster makes its pods anew elsewhere."


def test_workload_that_is_gone_or_going_is_lost():
    assert observe(Seen(None, ())).lost
    going = workload()
    going["metadata"]["deletionTimestamp"] = "now"
    assert observe(Seen(going, ())).lost


def test_no_replica_wanted_is_asleep():
    assert see(replicas=0).asleep


def refused(message: str, replicas: int = 1) -> dict[str, Any]:
    """A workload whose pods an admission controller refuses."""
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    return workload(replicas, conditions=[{"type": "Available", "status": "False"}, condition])


FULL = (
    'pods "x-r1-dccc5ccb9-vjvmf" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, '
    "used: requests.nvidia.com/gpu=8, limited: requests.nvidia.com/gpu=8"
)
FULL_SAID = (
    "ResourceQuota gpus admits no further pod (it asks for 1 requests.nvidia.com/gpu where 8 of 8 are taken): "
    "raise the quota, stop what needs it least, or ask for less."
)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (FULL, FULL_SAID),
        (
            'pods "p" is forbidden: exceeded quota: all, requested: limits.cpu=4,pods=1, used: limits.cpu=15,pods=3, '
            "limited: limits.cpu=16,pods=3",
            "ResourceQuota all admits no further pod (it asks for 4 limits.cpu where 15 of 16 are taken, 1 pods where "
            "3 of 3 are taken): raise the quota, stop what needs it least, or ask for less.",
        ),
        (
            'pods "p" is forbidden: failed quota: cpus: must specify limits.cpu for: consumer,engine; '
            "requests.memory for: consumer,engine",
            "ResourceQuota cpus admits only pods whose containers say limits.cpu, requests.memory: set that in the "
            "spec, or give the namespace a LimitRange with defaults.",
        ),
        (
            'pods "p" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
            'The cluster makes no pod: pods "p" is forbidden: violates PodSecurity "restricted:latest": '
            "runAsNonRoot != true.",
        ),
    ],
)
def test_refused_pod_is_said_with_the_quota_and_what_to_do(message: str, said: str):
    seen = observe(Seen(refused(message), ()))
    assert (seen.alive, seen.placed, seen.reason, seen.said) == (True, False, "unschedulable", said)


def test_group_whose_pods_are_not_made_says_where_the_cluster_tells_why():
    assert observe(Seen(workload(), ())).said == "The cluster has made no pod yet."
    group = workload() | {"kind": "LeaderWorkerSet"}
    assert "`kubectl describe statefulset x-r1` tells why" in observe(Seen(group, ())).said


def test_some_replicas_held_back_by_a_quota_degrade_those_that_answer():
    good = pod("a", ready=True, state={"running": {}})
    seen = observe(Seen(refused(FULL, replicas=2), [good]))
    assert (seen.ready, seen.condition) == (True, "Degraded")
    assert seen.said == f"1 of 2 replicas answer. {FULL_SAID}"
    ending = waiting("CrashLoopBackOff", lastState=ENDED, restartCount=3)
    seen = observe(Seen(refused(FULL, replicas=3), [good, ending]))
    assert "ended with exit code 1" in seen.said, "what somebody must mend in the endpoint comes first"


def test_autoscaler_that_does_not_work_degrades_what_answers():
    scaler = {"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no such query"}]}}
    seen = observe(Seen(workload(), [pod(ready=True)], scaler))
    assert (seen.ready, seen.condition) == (True, "Degraded")
    assert seen.said == "Its autoscaler does not work: no such query."


def test_scheduler_message_names_the_resource_first():
    message = "0/5 nodes are available: 2 Insufficient cpu, 3 Insufficient nvidia.com/gpu."
    assert no_room(message).startswith("No node has room: too little cpu (2 nodes), nvidia.com/gpu (3 nodes);")
    assert no_room("0/1 nodes are available: 1 node(s) had untolerated taint.").startswith("No node takes it;")
    assert no_room("1 Insufficient cpu").startswith("No node has room: too little cpu (1 node);")


def test_consumer_that_keeps_ending_beside_a_good_engine_is_what_is_told():
    one = pod(ready=False, state={"running": {}})
    engine = {
        "name": "engine",
        "image": IMAGE,
        "restartCount": 0,
        "ready": True,
        "started": True,
        "state": {"running": {}},
    }
    back_off = {"reason": "CrashLoopBackOff", "message": "back-off"}
    consumer = {
        "name": "consumer", "image": "core:1", "restartCount": 2, "ready": False,
        "state": {"waiting": back_off}, "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
    }  # fmt: skip
    one["status"]["containerStatuses"] = [engine, consumer]
    seen = see(one)
    assert (seen.ready, seen.crashes) == (False, 2)
    assert seen.said == "The consumer ended with exit code 2, 2 times in a row (CrashLoopBackOff)."
    assert telling_status(one) == consumer
    one["status"]["containerStatuses"] = [{**engine, "ready": False}, consumer]
    assert telling_status(one)["name"] == "engine", "without an engine there is nothing to ask"


@pytest.mark.parametrize(("kind", "resumes"), [("redis-streams", True), ("rabbitmq", True), ("prometheus", False)])
def test_autoscaler_that_follows_a_queue_wakes_what_it_put_to_sleep(kind: str, resumes: bool):
    scaler = {"spec": {"triggers": [{"type": "cpu"}, {"type": kind}]}}
    seen = observe(Seen(workload(0), (), scaler))
    assert (seen.asleep, seen.resumes) == (True, resumes)


def test_pods_have_addresses_of_their_own_while_several_answer():
    def at(host: str, *, ready: bool = True, role: str = "leader") -> dict[str, Any]:
        item = pod(host, ready=ready)
        item["status"]["podIP"] = host
        item["metadata"]["labels"]["modelops.dev/role"] = role
        return item

    ending = at("10.0.0.3")
    ending["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    others = [at("10.0.0.2", ready=False), ending, at("10.0.0.4", role="worker"), pod(ready=True)]
    assert replica_urls([at("fd00::1"), *others, at("10.0.0.1")], 8000) == (
        "http://10.0.0.1:8000/v1",
        "http://[fd00::1]:8000/v1",
    )
    assert replica_urls([at("10.0.0.1"), *others], 8000) == (), "the Service leads to the only one"
