"""Steps that need an engine's environment, done in pods of that engine's image: made, followed, taken away again."""

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
from dagster_k8s import PipesK8sClient
from dagster_k8s.client import DagsterK8sError
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from modelops_dagster.clients.kubernetes.api import KubernetesApi, refused
from modelops_dagster.clients.kubernetes.cache import KindCache
from modelops_dagster.clients.worker_tasks import TaskEnd, TaskFolder, refusal
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import ClusterUnavailable, OverQuota, UserError
from modelops_dagster.domain.kubernetes import Site
from modelops_dagster.domain.kubernetes.disruptions import taken_for
from modelops_dagster.domain.kubernetes.facts import container_times, look
from modelops_dagster.domain.kubernetes.names import PART_LABEL
from modelops_dagster.domain.kubernetes.pods import CONTAINER
from modelops_dagster.domain.kubernetes.steps import (
    RUN_LABEL,
    RunPod,
    StepEnd,
    StepTask,
    gpus_of,
    retry_delay_s,
    step_end,
    step_pod,
)

LEASE_S = 120.0  # a pod whose run was killed ends after so long
_TEXTS = ("calibration", "texts")  # files of this program's image, which the pod does not have
_PATHS = ("checkpoint", "original", "candidate", "output")
_LOG_BYTES = 1 << 24
_WATCH_S = 30  # a watch that is not needed any more lasts no longer
_LAST_WORD_S = 2.0
_REASONS = {"late": "timeout", "ended": "crash"}


class _PodGone(Exception):
    """The pod is not there any more, or will never have a container."""


class _WatchedCore:
    """The API that Pipes asks again and again how the pod is. It tells what it sees, and bears an API server's restart.

    Pipes itself would wait a day for a pod that somebody deleted before it ran.
    """

    def __init__(self, core: Any, seen: Callable[[dict[str, Any] | None], None], patience_s: float) -> None:
        self._core, self._seen, self._patience_s = core, seen, patience_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def list_namespaced_pod(self, namespace: str, **query: Any) -> Any:
        while True:
            try:
                found = self._core.list_namespaced_pod(namespace, **query)
            except (ApiException, HTTPError) as error:
                if isinstance(error, ApiException) and error.status < 500:
                    raise
                time.sleep(self._patience_s)  # pods go on without their API server
            else:
                as_dict = self._core.api_client.sanitize_for_serialization
                self._seen(as_dict(found.items[0]) if found.items else None)
                return found


class _StepClient(PipesK8sClient):
    """Dagster's client for pods, which keeps the pod's name and what was seen of it last."""

    def __init__(self, *, messages: Path, kubeconfig: str, poll_s: float, say: Callable[[str], None]) -> None:
        super().__init__(
            # a file, since a progress bar on standard error can swallow a message in the pod's log
            message_reader=dg.PipesFileMessageReader(str(messages), cleanup_file=False),
            load_incluster_config=None if kubeconfig else True,
            kubeconfig_file=kubeconfig or None,
            poll_interval=poll_s,
        )
        self.pod_name = ""
        self.pod: dict[str, Any] | None = None
        self.over = False  # what is told from now on is our own doing
        self._say = say
        self._said = ""

    @contextmanager
    def consume_pod_logs(self, *, client: Any, pod_name: str, **_: Any) -> Iterator[None]:  # type: ignore[override]
        """Pipes calls it when the pod was made, and then waits for its end."""
        self.pod_name = pod_name
        client.core_api = _WatchedCore(client.core_api, self._look, self.poll_interval)
        yield

    def note(self, pod: dict[str, Any]) -> None:
        """Keep what a watch tells: why a pod is taken away is often said in its last moment, between two looks."""
        if pod["metadata"]["name"] == self.pod_name and not self.over:
            self.pod = pod

    def _look(self, pod: dict[str, Any] | None) -> None:
        if pod is None:
            raise _PodGone
        self.pod = pod
        status = pod.get("status") or {}
        if status.get("phase") == "Failed" and not status.get("containerStatuses"):
            raise _PodGone
        waits = look(pod)
        said = "" if waits is None or waits.placed else waits.said
        if said and said != self._said:
            self._say(f"pod {self.pod_name}: {said}")
        self._said = said


class _Task(NamedTuple):
    what: str
    folder: TaskFolder
    request: Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """What steps need to know about the cluster. `owner`: the pod of the run; None: the run is in no pod."""

    site: Site
    kubeconfig: str
    owner: RunPod | None
    poll_s: float


class StepPods:
    """Does the quantizer's tasks for one step of a run. A pod that the cluster takes away is made again.

    Args:
        engine: whose image it is.
        work: folder for requests, logs and results, on the volume that pods mount.
        timeout_s: longest a task may run.
    """

    def __init__(
        self, context: dg.OpExecutionContext, cluster: Cluster, engine: EngineManifest, work: Path, timeout_s: float
    ) -> None:
        self._context, self._cluster, self._engine = context, cluster, engine
        self._work, self._timeout_s = work, timeout_s
        kubeconfig = Path(cluster.kubeconfig) if cluster.kubeconfig else None
        self._api = KubernetesApi(cluster.site.namespace, kubeconfig)

    def made_by(self) -> str:
        """The engine and its image, which is all that the result depends on."""
        return f"{self._engine.name} {self._cluster.site.image(self._engine.name, self._engine.version)}"

    def run(self, what: str, request: Mapping[str, Any]) -> TaskEnd:
        """Do the task in a pod, and in another one as often as it is taken away.

        Raises:
            OverQuota: no quota admitted the pod in `placing_timeout_s` of the site file.
            UserError, InvalidSpec: the API server does not let us, or does not take the pod.
        """
        site, lost = self._cluster.site, 0.0
        task = _Task(what, TaskFolder.new(self._work), request)
        ended = partial(TaskEnd, task.folder.path)
        for attempt in itertools.count(1):
            end, hours = self._admitted(task)
            answer = task.folder.answer()
            if answer is not None and answer["ok"]:
                return ended({**answer, "taken_away": attempt - 1, "lost_gpu_hours": round(lost, 6)})
            if answer is not None:
                return ended(None, str(answer["reason"]), refusal(answer))
            if end.kind != "taken":
                return ended(None, _REASONS.get(end.kind, end.kind), end.said)
            lost += hours
            if attempt > site.steps.retries:
                return ended(None, "taken_away", f"{end.said}, for the {attempt}. time, and given up")
            delay_s = retry_delay_s(site, attempt)
            self._record(task, end, hours, delay_s)
            time.sleep(delay_s)
            _begin_again(task)
        raise AssertionError("unreachable")

    def _admitted(self, task: _Task) -> tuple[StepEnd, float]:
        """One pod, as soon as the quotas of the namespace admit it; says what it waits for."""
        site, began, said = self._cluster.site, time.monotonic(), ""
        for tried in itertools.count(1):
            try:
                return self._once(task)
            except OverQuota as error:
                delay_s = retry_delay_s(site, tried)
                if time.monotonic() - began + delay_s > site.placing_timeout_s:
                    raise OverQuota(f"{task.what}: no pod in {site.placing_timeout_s} s. {error.sentence}") from error
                if error.sentence != said:
                    self._context.log.info(f"{task.what} waits: {error.sentence}")
                said = error.sentence
                time.sleep(delay_s)
        raise AssertionError("unreachable")

    def _once(self, task: _Task) -> tuple[StepEnd, float]:
        """One pod, from its making to its deletion, whichever way that comes; how it ended, and its GPU-hours."""
        pod = step_pod(self._step_task(task), self._cluster.site, self._engine, self._cluster.owner)
        client = _StepClient(
            messages=task.folder.path / "messages",
            kubeconfig=self._cluster.kubeconfig,
            poll_s=self._cluster.poll_s,
            say=self._context.log.info,
        )
        labels = pod["metadata"]["labels"]
        selector = ",".join(f"{name}={labels[name]}" for name in (PART_LABEL, RUN_LABEL))
        watch = KindCache(self._api, "Pod", selector, client.note, watch_s=_WATCH_S)
        gone = False
        try:
            watch.start()
            with _lease(task.folder.path / "lease"):
                client.run(
                    context=self._context,
                    namespace=self._cluster.site.namespace,
                    base_pod_meta=pod["metadata"],
                    base_pod_spec=pod["spec"],
                    pod_wait_timeout=0,  # the pod has a deadline, and so has the run
                    delete_pod_on_completion=False,
                )
        except (DagsterK8sError, _PodGone) as error:
            self._context.log.info(f"pod {client.pod_name} has ended: {str(error)[:500] or 'it is gone'}")
        except ApiException as error:
            raise refused(error, "create", f"pods of {self._cluster.site.namespace}") from error
        finally:
            if client.pod_name:
                gone = not self._take_away(task, client)
            if gone:
                watch.wait_for(lambda: watch.get(client.pod_name) is None, _LAST_WORD_S)
            watch.stop()
        last = client.pod or {}
        began, ended = container_times(last)
        spent_s = ((ended or datetime.now(UTC)) - began).total_seconds() if began else 0.0
        end = step_end(None if gone and taken_for(client.pod) is None else client.pod)
        return end, spent_s / 3600 * gpus_of(self._cluster.site, self._engine)

    def _take_away(self, task: _Task, client: _StepClient) -> bool:
        """Keep the pod's log and its last state, and delete it; False: it was gone."""
        name = client.pod_name
        try:
            log = self._api.log(name, CONTAINER, {"limitBytes": str(_LOG_BYTES)})
            pod = self._api.read("Pod", name)
            client.pod, client.over = pod or client.pod, pod is not None
            self._api.delete("Pod", name)
        except (ClusterUnavailable, UserError) as error:
            self._context.log.error(f"pod {name} cannot be deleted, and ends without its lease: {error}")
            return True
        task.folder.log.write_text(log)
        return pod is not None

    def _step_task(self, task: _Task) -> StepTask:
        site = self._cluster.site
        request = dict(task.request)
        for name in _PATHS:
            if request.get(name):
                request[name] = site.checkpoint_path(request[name])
        for name in _TEXTS:
            if request.get(name):
                request[name] = shutil.copy(request[name], task.folder.path)
        written = task.folder.write(request, lease=str(task.folder.path / "lease"), lease_s=LEASE_S)
        return StepTask(
            run_id=self._context.run_id,
            folder=str(task.folder.path),
            request=str(written),
            output=task.request.get("output"),
            timeout_s=self._timeout_s,
        )

    def _record(self, task: _Task, end: StepEnd, hours: float, delay_s: float) -> None:
        """Say it in the step's log, and put it on the asset's time line, where it can be counted."""
        self._context.log.warning(
            f"{task.what}: {end.said} after {hours:.2f} GPU-hours, which are lost; made again in {delay_s:.0f} s"
        )
        keys = {*self._context.selected_asset_keys, *(c.asset_key for c in self._context.selected_asset_check_keys)}
        for key in sorted(keys, key=str):
            metadata = {
                "taken_away": dg.MetadataValue.text(end.said),
                "lost_gpu_hours": dg.MetadataValue.float(hours),
            }
            self._context.log_event(dg.AssetObservation(key, partition=self._context.partition_key, metadata=metadata))


def _begin_again(task: _Task) -> None:
    """What an attempt wrote is of no use to the next one, since a quantizer cannot resume."""
    output = task.request.get("output")
    for path in Path(output).iterdir() if output else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    task.folder.progress.unlink(missing_ok=True)


@contextmanager
def _lease(path: Path, every_s: float = LEASE_S / 12) -> Iterator[None]:
    """Change the file now and then while this program waits: the worker ends when that stops."""
    done = threading.Event()

    def renew() -> None:
        for count in itertools.count():
            with contextlib.suppress(OSError):  # the volume is away for a moment
                path.write_text(str(count))
            if done.wait(every_s):
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
