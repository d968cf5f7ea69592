"""A step of a run that needs an engine's environment: the pod it is done in, and what became of that pod."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.kubernetes.disruptions import taken_for
from modelops_dagster.domain.kubernetes.facts import look
from modelops_dagster.domain.kubernetes.names import MANAGED_BY_LABEL, MANAGER, PART_LABEL
from modelops_dagster.domain.kubernetes.pods import (
    CONTAINER,
    SCRATCH_PATH,
    TMP_PATH,
    container_security,
    cpu_quantity,
    environment,
    placement,
    pod_security,
    program,
    quantity,
)
from modelops_dagster.domain.kubernetes.site import Site

Manifest = dict[str, Any]
PART = "step"
RUN_LABEL = "dagster/run-id"
PRIORITY = Priority.PREVIEW  # it is done for a release, so research makes room for it
_MAX_DELAY_S = 600.0
_GRACE_S = 5  # there is nothing to save


@dataclass(frozen=True)
class StepTask:
    """One task of a step. Paths are the same in the run's pod and in the task's.

    Args:
        folder: with the request, and where progress and result are written; nobody else's.
        output: of the checkpoint store, where it writes; None: nowhere.
        timeout_s: longest it may take, waiting for a node not counted.
    """

    run_id: str
    folder: str
    request: str
    output: str | None
    timeout_s: float


@dataclass(frozen=True)
class RunPod:
    """The pod of the run that the step belongs to; what it owns goes with it."""

    name: str
    uid: str


@dataclass(frozen=True)
class StepEnd:
    """What became of the pod of a task."""

    kind: Literal["ended", "taken", "late", "out_of_memory", "no_image", "bad_config"]
    said: str  # half a sentence


def gpus_of(site: Site, engine: EngineManifest) -> int:
    """GPUs of one pod."""
    if site.steps.gpus is not None:
        return site.steps.gpus
    return 1 if "cuda" in engine.accelerators else 0


def step_pod(task: StepTask, site: Site, engine: EngineManifest, owner: RunPod | None = None) -> Manifest:
    """`metadata` and `spec` of the pod. It reads the whole store and writes its own folder and its output alone.

    Raises:
        InvalidSpec: the output is not in the store that pods mount.
    """
    labels = {MANAGED_BY_LABEL: MANAGER, PART_LABEL: PART, RUN_LABEL: task.run_id}
    priority = site.priority_classes[PRIORITY]
    if site.kueue is not None:
        labels |= {
            "kueue.x-k8s.io/queue-name": site.kueue.serving_queue,
            "kueue.x-k8s.io/priority-class": priority,
        }
    metadata: Manifest = {"namespace": site.namespace, "labels": labels}
    if owner is not None:
        found = {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}
        metadata["ownerReferences"] = [found | {"controller": False, "blockOwnerDeletion": False}]
    gpus = gpus_of(site, engine)
    spec: Manifest = {
        "restartPolicy": "Never",
        "priorityClassName": priority,
        "activeDeadlineSeconds": math.ceil(task.timeout_s),
        "terminationGracePeriodSeconds": _GRACE_S,
        **pod_security(site),
        "containers": [_container(task, site, engine, gpus)],
        "volumes": _volumes(site, gpus),
    }
    return {"metadata": metadata, "spec": spec | placement(site, site.steps.nodegroups, gpus=gpus)}


def _container(task: StepTask, site: Site, engine: EngineManifest, gpus: int) -> Manifest:
    argv, variables = program(engine, {"cpus": str(math.ceil(site.steps.cpu))})
    amounts = {"cpu": cpu_quantity(site.steps.cpu), "memory": quantity(site.steps.memory)}
    if gpus:
        amounts[site.gpu_resource] = str(gpus)
    store = site.checkpoints
    mounts: list[Manifest] = [
        {"name": "home", "mountPath": store.mount_path, "subPath": store.sub_path, "readOnly": True},
        {"name": "home", "mountPath": task.folder, "subPath": f"{site.steps.sub_path}/{task.folder.rsplit('/', 1)[1]}"},
        {"name": "scratch", "mountPath": SCRATCH_PATH},
        {"name": "scratch", "mountPath": TMP_PATH, "subPath": "tmp"},
    ]
    if task.output is not None:
        output = site.checkpoint_path(task.output)
        inside = output.removeprefix(store.mount_path.rstrip("/"))
        mounts.insert(1, {"name": "home", "mountPath": output, "subPath": f"{store.sub_path}{inside}"})
    if gpus > 1:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - the container's own
    return {
        "name": CONTAINER,
        "image": site.image(engine.name, engine.version),
        "command": [*argv, task.request],
        "env": environment(variables, ""),
        "resources": {"requests": dict(amounts), "limits": amounts},
        "securityContext": container_security(),
        "volumeMounts": mounts,
    }


def _volumes(site: Site, gpus: int) -> list[Manifest]:
    volumes: list[Manifest] = [
        {"name": "home", "persistentVolumeClaim": {"claimName": site.checkpoints.claim}},
        {"name": "scratch", "emptyDir": {"sizeLimit": quantity(site.scratch_gib)}},
    ]
    if gpus > 1:
        memory = {"medium": "Memory", "sizeLimit": quantity(site.shared_memory_gib)}
        volumes.append({"name": "shm", "emptyDir": memory})
    return volumes


def step_end(pod: Manifest | None) -> StepEnd:
    """What became of a pod that is not waited for any more.

    Args:
        pod: as it was seen last; None: it is not there.
    """
    by = taken_for(pod)
    if by is not None or pod is None:
        return StepEnd("taken", f"taken away by {by}")
    status = pod.get("status") or {}
    if status.get("reason") == "DeadlineExceeded":
        return StepEnd("late", "ended at its deadline")
    trouble = look(pod)
    said = "ended with no result" if trouble is None or not trouble.said else trouble.said.rstrip(".")
    if trouble is not None and trouble.reason in ("no_image", "bad_config", "out_of_memory"):
        return StepEnd(trouble.reason, said)
    return StepEnd("ended", said)


def retry_delay_s(site: Site, taken: int) -> float:
    """Seconds before a pod that was taken away `taken` times is made again."""
    return min(_MAX_DELAY_S, site.steps.retry_delay_s * 2.0 ** (taken - 1))
