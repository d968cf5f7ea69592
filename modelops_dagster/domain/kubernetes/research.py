"""Research on the same accelerators: a Job that may be taken away for an endpoint, and goes on when there is room."""

import math
import re
from typing import Any

from pydantic import Field, field_validator

from modelops_dagster.domain.endpoint_spec.container import Image, Variables
from modelops_dagster.domain.endpoint_spec.quantities import Cpu, Memory
from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import MANAGED_BY_LABEL, MANAGER, PART_LABEL
from modelops_dagster.domain.kubernetes.pods import (
    container_security,
    cpu_quantity,
    environment,
    placement,
    pod_security,
    quantity,
)
from modelops_dagster.domain.kubernetes.site import Site
from modelops_dagster.domain.research import CHECKPOINT_VARIABLE, JobRequest, Preemptible
from modelops_dagster.domain.values import Value

Manifest = dict[str, Any]
JOB_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,50}[a-z0-9])?")
CONTAINER = "research"
RESEARCH_LABEL = "modelops.dev/research"
REQUEST_ANNOTATION = "modelops.dev/request"
CHECKPOINT_NAME = "checkpoint"  # in the job's folder: the file it touches when it has saved its work
_KEPT_S = 86_400


class ResearchJob(Value):
    """Work that may be preempted for a release. It should write checkpoints of its own, since it starts again."""

    name: str = Field(description="lower-case letters, digits and '-'")
    image: Image
    command: tuple[str, ...] = Field(min_length=1, description="argv, no shell")
    priority: Preemptible = Field(default=Priority.RESEARCH, description="research or preview: whom it yields to")
    gpus: int = Field(default=0, ge=0, le=64, description="of one pod")
    pods: int = Field(default=1, ge=1, le=64, description="that run at the same time, each with all of the command")
    cpu: Cpu | None = Field(default=None, description="vCPU of one pod")
    memory: Memory | None = Field(default=None, description="Gi of one pod")
    max_hours: float = Field(default=24, gt=0, le=24 * 60, allow_inf_nan=False, description="then it is ended")
    retries: int = Field(default=3, ge=0, le=100, description="after failures of its own; evictions do not count")
    nodegroups: tuple[str, ...] = ()
    env_variables: Variables = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not JOB_NAME.fullmatch(value):
            raise ValueError(f"{value!r} is not the name of a job: use lower-case letters, digits and '-'")
        return value


def research_job(job: ResearchJob, site: Site) -> Manifest:
    """The Job. An eviction ends a pod and not the Job: it is not counted as a failure, and the pod comes again."""
    marks = {MANAGED_BY_LABEL: MANAGER, PART_LABEL: CONTAINER, RESEARCH_LABEL: job.name}
    priority = site.priority_classes[job.priority]
    queue = {}
    if site.kueue is not None:
        queue = {
            "kueue.x-k8s.io/queue-name": site.kueue.research_queue,
            "kueue.x-k8s.io/priority-class": priority,
        }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": job.name, "namespace": site.namespace, "labels": marks | queue},
        "spec": {
            "backoffLimit": job.retries,
            "completions": job.pods,
            "parallelism": job.pods,
            "activeDeadlineSeconds": int(job.max_hours * 3600),
            "ttlSecondsAfterFinished": _KEPT_S,
            "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]},
            "podReplacementPolicy": "Failed",
            "template": {"metadata": {"labels": marks}, "spec": _pod(job, site, priority)},
        },
    }


def requested_job(job_id: str, request: JobRequest, site: Site) -> Manifest:
    """The Job of a request to the controller: it begins in a folder of its own, which outlives its pods.

    Raises:
        InvalidSpec: it names no image.
    """
    if request.image is None:
        raise InvalidSpec("On a cluster a job runs in a container: name its image, with --image.", field="image")
    job = ResearchJob(
        name=job_id,
        image=request.image,
        command=request.command,
        priority=request.priority,
        gpus=request.gpus,
        cpu=request.cpu,
        memory=request.memory,
        max_hours=request.max_hours,
        retries=0,
        nodegroups=request.nodegroups,
        env_variables={CHECKPOINT_VARIABLE: f"{site.research.mount_path}/{CHECKPOINT_NAME}"} | request.environment,
    )
    item = research_job(job, site)
    item["metadata"]["annotations"] = {REQUEST_ANNOTATION: request.model_dump_json(exclude_defaults=True)}
    pod, store = item["spec"]["template"]["spec"], site.checkpoints
    pod["terminationGracePeriodSeconds"] = math.ceil(request.grace_s)
    pod["volumes"].append({"name": "home", "persistentVolumeClaim": {"claimName": store.claim}})
    pod["containers"][0]["workingDir"] = request.directory or site.research.mount_path
    pod["containers"][0]["volumeMounts"] += [
        {"name": "home", "mountPath": site.research.mount_path, "subPath": f"{site.research.sub_path}/{job_id}"},
        {"name": "home", "mountPath": store.mount_path, "subPath": store.sub_path, "readOnly": True},
    ]
    return item


def _pod(job: ResearchJob, site: Site, priority: str) -> Manifest:
    amounts: Manifest = {}
    if job.cpu is not None:
        amounts["cpu"] = cpu_quantity(job.cpu)
    if job.memory is not None:
        amounts["memory"] = quantity(job.memory)
    if job.gpus:
        amounts[site.gpu_resource] = str(job.gpus)
    container: Manifest = {
        "name": CONTAINER,
        "image": job.image,
        "command": list(job.command),
        "env": environment({"HOME": "/scratch"} | job.env_variables, f"{job.name}-env"),
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    if amounts:
        container["resources"] = {"requests": dict(amounts), "limits": amounts}
    return {
        "restartPolicy": "Never",
        "priorityClassName": priority,
        **pod_security(site),
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": quantity(site.scratch_gib)}}],
        **placement(site, job.nodegroups, gpus=job.gpus),
    }
