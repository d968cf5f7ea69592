"""The Job controller: a pod for each Job, another one when it was taken away, and an end."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from tests.fakes.cluster.programs import time_of_now
from tests.fakes.cluster.store import Key, Manifest, Store


class Jobs:
    """Called with the store's lock held. A Job that is suspended, as Kueue does it, has no pods."""

    def __init__(
        self, store: Store, delete: Callable[[Manifest], None], refusal: Callable[[Manifest], str | None]
    ) -> None:
        self._store, self._delete, self._refusal = store, delete, refusal
        self._begun: dict[str, float] = {}

    def step(self, job: Manifest, pods: list[Manifest]) -> None:
        """One look at one Job and its pods."""
        conditions = (job.get("status") or {}).get("conditions") or []
        alive = [p for p in pods if p["status"].get("phase") not in ("Succeeded", "Failed")]
        if "deletionTimestamp" in job["metadata"] or job["spec"].get("suspend"):
            for pod in pods:
                self._delete(pod)
            return
        if conditions:
            return
        begun = self._begun.setdefault(job["metadata"]["uid"], time.monotonic())
        failed = [p for p in pods if p["status"].get("phase") == "Failed" and not _was_taken(p)]
        if any(p["status"].get("phase") == "Succeeded" for p in pods):
            self._end(job, "Complete", "CompletionsReached")
        elif time.monotonic() - begun > job["spec"]["activeDeadlineSeconds"]:
            for pod in pods:
                self._delete(pod)
            self._end(job, "Failed", "DeadlineExceeded")
        elif len(failed) > job["spec"]["backoffLimit"]:
            self._end(job, "Failed", "BackoffLimitExceeded")
        elif not alive:
            refusal = self._refusal(job["spec"]["template"]["spec"])
            if refusal is None:
                self._make(job)
            else:
                self._tell(job, refusal)

    def _end(self, job: Manifest, kind: str, reason: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": reason}
        self._store.update(_key(job), {"status": {"conditions": [condition]}}, "controller-manager")

    def _tell(self, job: Manifest, refusal: str) -> None:
        """A Job without pods says why in an event, and in nothing else."""
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        key: Key = ("events", namespace, f"{name}.refused")
        message, at = f'Error creating: pods "{name}-x" is {refusal}', time_of_now()
        said = {"message": message, "lastTimestamp": at}
        if key not in self._store.objects:
            about = {"kind": "Job", "namespace": namespace, "name": name, "uid": job["metadata"]["uid"]}
            event = {"apiVersion": "v1", "kind": "Event", "reason": "FailedCreate", "involvedObject": about, **said}
            self._store.create(key, {**event, "metadata": {"name": key[2], "namespace": namespace}}, validate=False)
        elif self._store.objects[key].item["lastTimestamp"] != at:
            self._store.update(key, said, "job-controller")

    def _make(self, job: Manifest) -> None:
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-{uuid.uuid4().hex[:5]}"
        owner = {key: job[key] for key in ("apiVersion", "kind")}
        owner |= {key: job["metadata"][key] for key in ("name", "uid")}
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
                "creationTimestamp": time_of_now(),
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self._store.create(("pods", job["metadata"]["namespace"], name), pod)


def _was_taken(pod: Manifest) -> bool:
    """Evicted, or deleted when its Job was suspended: neither counts against the Job's retries."""
    return "deletionTimestamp" in pod["metadata"] or any(
        c["type"] == "DisruptionTarget" for c in pod["status"].get("conditions") or []
    )


def _key(job: Manifest) -> Key:
    return ("jobs", job["metadata"]["namespace"], job["metadata"]["name"])
