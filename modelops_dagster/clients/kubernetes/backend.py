"""Engines on a cluster: one workload per launch, applied server-side, watched, and judged by what the cluster says."""

import json
import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.endpoints.backend import Prepared, Replica
from modelops_dagster.clients.kubernetes.api import KubernetesApi, NoSuchObject
from modelops_dagster.clients.kubernetes.cache import KindCache
from modelops_dagster.clients.kubernetes.pod_logs import PodLogs
from modelops_dagster.domain.endpoints import EndpointSpec, LogChunk
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import ClusterUnavailable, EndpointFailed, InvalidSpec, ModelOpsError
from modelops_dagster.domain.kubernetes import MANAGER, Site, object_name, render, service_url
from modelops_dagster.domain.kubernetes.facts import Seen, observe, replica_urls, telling_pod
from modelops_dagster.domain.kubernetes.names import (
    ENDPOINT_LABEL,
    HTTP_PORT,
    LAUNCH_ANNOTATION,
    MANAGED_BY_LABEL,
    NAME_ANNOTATION,
    REVISION_LABEL,
    SPEC_ANNOTATION,
    slug,
)
from modelops_dagster.domain.kubernetes.pods import start_timeout_s
from modelops_dagster.domain.lifecycle import Observation

log = logging.getLogger("modelops.kubernetes")
Manifest = dict[str, Any]
WORKLOADS = ("Deployment", "LeaderWorkerSet")
SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER}"
# owns a field for the moment between us and an autoscaler, so that it is not set back to its default in between
_HANDOVER = f"{MANAGER}-handover"
_SYNC_S = 15.0
_END_SLACK_S = 30.0
_KEPT_TAILS = 256


@dataclass(frozen=True)
class Applied:
    """What is to be applied; there is no process of ours."""

    objects: tuple[Manifest, ...] = field(repr=False)
    argv: tuple[str, ...] = ()
    version: str = ""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


class KubernetesBackend:
    """The endpoints of one namespace. Nothing but this program applies or deletes what carries its label.

    Args:
        engines: manifests by name, read anew for every launch.
    """

    def __init__(self, api: KubernetesApi, site: Site, engines: Callable[[], Mapping[str, EngineManifest]]) -> None:
        self._api = api
        self._site = site
        self._engines = engines
        self._changed: Callable[[str], None] = lambda _: None
        self._caches = {
            kind: KindCache(api, kind, SELECTOR, self._notice, group_of=_revision_of, optional=kind not in _ALWAYS)
            for kind in ("Pod", *WORKLOADS, "ScaledObject")
        }
        self._logs = PodLogs(api)
        self._tails: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def follow(self, changed: Callable[[str], None]) -> None:
        """Begin to watch; `changed` is told the name of every endpoint that something happens to, from any thread."""
        self._changed = changed
        for cache in self._caches.values():
            cache.start()

    def close(self) -> None:
        for cache in self._caches.values():
            cache.stop()

    def refusal(self, spec: EndpointSpec) -> ModelOpsError | None:
        """Why the cluster cannot do what the spec asks for; None when it can."""
        if spec.is_external:
            return None
        try:
            render(spec, self._site, self._engines())
        except ModelOpsError as error:
            return error
        return None

    def prepare(
        self, spec: EndpointSpec, generation: int, reserved_ports: Collection[int] = (), devices: tuple[str, ...] = ()
    ) -> Prepared:
        """Render the objects. Applies nothing.

        Raises:
            InvalidSpec: the cluster cannot do what the spec asks for.
            EngineMissing: there is no such engine.
        """
        launch_id = uuid.uuid4().hex
        objects = self._objects(spec, generation, launch_id)
        workload = next(item for item in objects if item["kind"] in WORKLOADS)
        replica = self._replica(spec, generation, launch_id, workload)
        return Prepared(replica, Applied(tuple(objects), replica.argv, replica.engine_version))

    def _replica(self, spec: EndpointSpec, generation: int, launch_id: str, workload: Manifest) -> Replica:
        engine = self._engines().get(spec.engine)
        container = _containers(workload)[0]
        return Replica(
            launch_id=launch_id,
            generation=generation,
            port=HTTP_PORT,
            url=service_url(spec.name, generation, self._site),
            log_path=f"{self._site.namespace}/{object_name(spec.name, generation)}",
            engine_version=container["image"] if engine is None else engine.full_version,
            argv=(*container.get("command", (container["image"],)), *container.get("args", ())),
            launched_at=datetime.now(UTC),
            start_timeout_s=start_timeout_s(spec, engine),
            placing_timeout_s=float(self._site.placing_timeout_s),
        )

    def start(self, spec: EndpointSpec, prepared: Prepared) -> Replica:
        """Apply the objects.

        Raises:
            InvalidSpec, Conflict, UserError, ClusterUnavailable: the API server did not take them.
        """
        launch = prepared.launch
        if not isinstance(launch, Applied):
            raise TypeError(f"{type(launch).__name__} was not prepared for a cluster")
        self._apply(launch.objects)
        return prepared.replica

    def adopt(self, replica: Replica) -> Replica:
        """What runs on a cluster needs no hand on it: it is found by its name."""
        return replica

    def observe(self, spec: EndpointSpec, replica: Replica, *, ask: bool) -> Observation:
        """What the watches told last; the API server is asked nothing, unless the spec changed meanwhile.

        Raises:
            ClusterUnavailable: the watches are broken, so nothing is known of now.
        """
        self._see_clearly()
        workload = self._workload(replica)
        if workload is not None and workload["metadata"].get("annotations", {}).get(SPEC_ANNOTATION) != _text(spec):
            self._apply(self._objects(spec, replica.generation, replica.launch_id), workload)
            workload = self._workload(replica)
        revision = _revision(slug(spec.name), replica.generation)
        scalers = self._caches["ScaledObject"].group(revision)
        pods = self._caches["Pod"].group(revision)
        seen = observe(Seen(workload, pods, scalers[0] if scalers else None))
        if workload is None or not seen.ready or not self._site.pod_addresses:
            return seen
        return seen.model_copy(
            update={"urls": replica_urls(pods, _containers(workload)[0]["ports"][0]["containerPort"])}
        )

    def end(self, replica: Replica) -> None:
        """Delete the workload, and wait until its pods have gone; what refers to it goes with it.

        Raises:
            EndpointFailed: pods are still there.
        """
        name = _name(replica)
        workload = self._workload(replica)
        if workload is None:
            return
        revision = _revision_of(workload)
        self._remember(replica.launch_id, self._tail(revision))
        self._api.delete(workload["kind"], name)
        grace_s = _grace_s(workload) + _END_SLACK_S
        gone = self._caches["Pod"].wait_for(lambda: not self._caches["Pod"].group(revision), grace_s)
        gone = gone and self._caches[workload["kind"]].wait_for(lambda: self._cached(name) is None, _END_SLACK_S)
        if not gone:
            left = ", ".join(p["metadata"]["name"] for p in self._caches["Pod"].group(revision)) or name
            raise EndpointFailed(f"The cluster has not ended {left} within {grace_s:g} s; it is asked again.")

    def end_strangers(self, known: Collection[Replica]) -> list[str]:
        """Delete workloads of ours that no record claims: an older revision whose end was cut off by a kill."""
        if not self._synced():
            return ["The cluster does not answer yet; what was left on it is looked for at the next start."]
        claimed = {replica.launch_id for replica in known}
        said = []
        for workload in self._workloads():
            if _launch_of(workload) not in claimed:
                self._api.delete(workload["kind"], workload["metadata"]["name"])
                said.append(f"Deleted {workload['kind']} {workload['metadata']['name']}, which no record claims.")
        return said

    def found(self) -> list[tuple[EndpointSpec, Replica]]:
        """What runs on the cluster, the newest revision of each endpoint: for a controller that lost its records."""
        if not self._synced():
            return []
        newest: dict[str, tuple[EndpointSpec, Replica]] = {}
        for workload in sorted(self._workloads(), key=_revision_number):
            try:
                spec = EndpointSpec.model_validate_json(workload["metadata"]["annotations"][SPEC_ANNOTATION])
            except (KeyError, ValueError):
                log.warning("%s carries no spec of ours and is left alone", workload["metadata"]["name"])
                continue
            launch_id = _launch_of(workload) or uuid.uuid4().hex
            newest[spec.name] = (spec, self._replica(spec, _revision_number(workload), launch_id, workload))
        return list(newest.values())

    def tail(self, replica: Replica, lines: int) -> str:
        """The last lines of its pod, or what they were when it was ended."""
        with self._lock:
            kept = self._tails.get(replica.launch_id)
        workload = self._workload(replica)
        text = kept if workload is None else self._tail(_revision_of(workload))
        return "\n".join((text or "").splitlines()[-lines:])

    def read_log(self, name: str, *, tail: int, launch_id: str | None = None, offset: int = 0) -> LogChunk:
        """The last lines of the endpoint's newest pod, or what it wrote since."""
        mine = [w for w in self._workloads() if w["metadata"]["labels"].get(ENDPOINT_LABEL) == slug(name)]
        workload = max(mine, key=_revision_number, default=None)
        pod = None if workload is None else telling_pod(self._caches["Pod"].group(_revision_of(workload)))
        if pod is None:
            return LogChunk(launch_id=None, text="", offset=0)
        return self._logs.read(pod, tail=tail, launch_id=launch_id, offset=offset)

    def forget(self, name: str) -> None:
        """Nothing of a deleted endpoint is kept here. Its volumes stay: only their owner knows what is in them."""

    def _objects(self, spec: EndpointSpec, revision: int, launch_id: str) -> list[Manifest]:
        objects = render(spec, self._site, self._engines(), revision)
        for item in objects:
            if item["kind"] in WORKLOADS:
                item["metadata"]["annotations"] |= {LAUNCH_ANNOTATION: launch_id, SPEC_ANNOTATION: _text(spec)}
        return objects

    def _apply(self, objects: Collection[Manifest], live: Manifest | None = None) -> None:
        """Volumes first, then the workload, then what refers to it and goes with it."""
        owner: list[Manifest] = []
        for item in objects:
            wanted = item
            if owner:
                wanted = {**item, "metadata": {**item["metadata"], "ownerReferences": owner}}
            if live is not None and item["kind"] in WORKLOADS:
                self._hand_over(item, live)
            try:
                applied = self._api.apply(wanted, MANAGER)
            except NoSuchObject as error:
                raise InvalidSpec(
                    f"The cluster knows no {item['kind']}: install what brings it, or change the site file so that "
                    "it is not needed.",
                    field="site",
                ) from error
            if item["kind"] in WORKLOADS:
                owner = [_owner(applied)]
            if item["kind"] in self._caches:
                self._caches[item["kind"]].put(applied)

    def _hand_over(self, wanted: Manifest, live: Manifest) -> None:
        """Leave the number of replicas as it is when an autoscaler begins to own it.

        A field that its only owner leaves out is set to its default, which is 1.
        """
        replicas = live["spec"].get("replicas")
        if "replicas" not in wanted["spec"] and replicas not in (None, 1):
            metadata = {key: wanted["metadata"][key] for key in ("name", "namespace")}
            kept = {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": metadata}
            self._api.apply({**kept, "spec": {"replicas": replicas}}, _HANDOVER, force=True)

    def _cached(self, name: str) -> Manifest | None:
        return self._caches["Deployment"].get(name) or self._caches["LeaderWorkerSet"].get(name)

    def _workload(self, replica: Replica) -> Manifest | None:
        """The workload of a launch. One that the watches do not know is asked for before it counts as gone."""
        name = _name(replica)
        found = self._cached(name)
        if found is None:
            for kind in WORKLOADS:
                try:
                    found = found or self._api.read(kind, name)
                except NoSuchObject:
                    continue
        return found if found is not None and _launch_of(found) == replica.launch_id else None

    def _workloads(self) -> list[Manifest]:
        return [item for kind in WORKLOADS for item in self._caches[kind].all()]

    def _synced(self) -> bool:
        return all(cache.wait_synced(_SYNC_S) for cache in self._caches.values())

    def _see_clearly(self) -> None:
        for cache in self._caches.values():
            if cache.trouble is not None:
                raise cache.trouble
        if not self._synced():
            raise ClusterUnavailable("The cluster has not been listed yet; it is asked again.")

    def _notice(self, item: Manifest) -> None:
        name = (item["metadata"].get("annotations") or {}).get(NAME_ANNOTATION)
        if name is not None:
            self._changed(str(name))

    def _tail(self, revision: str) -> str:
        pod = telling_pod(self._caches["Pod"].group(revision))
        return "" if pod is None else self._logs.tail(pod)

    def _remember(self, launch_id: str, text: str) -> None:
        with self._lock:
            self._tails[launch_id] = text
            while len(self._tails) > _KEPT_TAILS:
                self._tails.popitem(last=False)


_ALWAYS = frozenset({"Pod", "Deployment"})


def _text(spec: EndpointSpec) -> str:
    """The spec as it is written on its workload; a default that a later version adds changes nothing."""
    return json.dumps(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=True)


def _revision(endpoint: str, revision: int | str) -> str:
    return f"{endpoint}/{revision}"


def _revision_of(item: Manifest) -> str:
    labels = item["metadata"].get("labels") or {}
    return _revision(labels.get(ENDPOINT_LABEL, ""), labels.get(REVISION_LABEL, ""))


def _revision_number(workload: Manifest) -> int:
    text = str((workload["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))
    return int(text) if text.isdigit() else 0


def _launch_of(workload: Manifest) -> str | None:
    return (workload["metadata"].get("annotations") or {}).get(LAUNCH_ANNOTATION)


def _name(replica: Replica) -> str:
    return replica.log_path.rpartition("/")[2]


def _owner(workload: Manifest) -> Manifest:
    """What refers to it goes first: KEDA takes a moment to let a ScaledObject go, and the next launch has its name."""
    found = {"apiVersion": workload["apiVersion"], "kind": workload["kind"]}
    metadata = workload["metadata"]
    return {**found, "name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": True}


def _pod_spec(workload: Manifest) -> Manifest:
    spec = workload["spec"]
    found: Manifest = (spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"])["spec"]
    return found


def _containers(workload: Manifest) -> list[Manifest]:
    found: list[Manifest] = _pod_spec(workload)["containers"]
    return found


def _grace_s(workload: Manifest) -> float:
    return float(_pod_spec(workload).get("terminationGracePeriodSeconds", 30))
