"""Where engines of ours run: as processes of this machine, or on a cluster. A setting says which."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from modelops_dagster.clients.endpoints import (
    EndpointBackend,
    EndpointRecord,
    Launcher,
    ProcessBackend,
    RecordStore,
    Replica,
)
from modelops_dagster.clients.hardware import accelerator_slots
from modelops_dagster.clients.kubernetes.site_file import read_site
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.errors import ClusterUnavailable
from modelops_dagster.services.controller.job_desk import JobDesk
from modelops_dagster.services.controller.wishes import Refusal
from modelops_dagster.settings import Settings

log = logging.getLogger("modelops.controller")
# a cluster tells what happens, so looking without having been told is only for timeouts
_CLUSTER_TICKS = 10


@dataclass(frozen=True)
class Place:
    """What the controller needs to know about it."""

    backend: EndpointBackend
    slots: tuple[str, ...] = ()
    refusal: Refusal | None = None
    tick_s: float = 1.0
    outlives: bool = False  # engines go on without the controller
    follow: Callable[[Callable[[str], None]], None] = lambda _: None
    take_over: Callable[[RecordStore], None] = lambda _: None
    desk: Callable[..., JobDesk] | None = None  # of research jobs; None: processes of this machine


def open_place(settings: Settings, folder: Path, launcher: Launcher, *, grace_s: float, tick_s: float) -> Place:
    """The place that the settings name.

    Args:
        folder: the controller's own.
        grace_s: seconds a process gets between SIGTERM and SIGKILL.

    Raises:
        UserError: there is no usable configuration of a cluster.
    """
    if settings.backend == "machine":
        slots = accelerator_slots(settings.accelerator, settings.gpus)
        return Place(ProcessBackend(folder, launcher, grace_s=grace_s), slots, tick_s=tick_s)
    # imported here: the client of the API server takes a second that one machine need not wait
    from modelops_dagster.clients.kubernetes.api import KubernetesApi
    from modelops_dagster.clients.kubernetes.backend import KubernetesBackend
    from modelops_dagster.clients.kubernetes.research import ClusterJobs
    from modelops_dagster.services.controller.cluster_research import ClusterDesk

    site = read_site(settings.site_file)
    site = site.model_copy(update={"checkpoint_root": site.checkpoint_root or str(settings.home / "checkpoints")})
    api = KubernetesApi(site.namespace, settings.kubeconfig)
    backend = KubernetesBackend(api, site, launcher.manifests)
    jobs = ClusterJobs(api, site, folder / "research", settings.home / site.research.sub_path)

    def take_over(store: RecordStore) -> None:
        """Write a record for every endpoint of the cluster that has none: the home was lost, or is a new one."""
        known, _ = store.load_all()
        for spec, replica in backend.found():
            if spec.name not in known:
                store.save(_taken_over(spec, replica, _answers(backend, spec, replica)))
                log.info("%s: found on the cluster as %s", spec.name, replica.log_path)

    return Place(
        backend,
        refusal=backend.refusal,
        tick_s=tick_s * _CLUSTER_TICKS,
        outlives=True,
        follow=backend.follow,
        take_over=take_over,
        desk=partial(ClusterDesk, jobs),
    )


def _answers(backend: EndpointBackend, spec: EndpointSpec, replica: Replica) -> bool:
    """Whether it takes calls now; False as well where the cluster cannot be asked."""
    try:
        return bool(backend.observe(spec, replica, ask=True).ready)
    except ClusterUnavailable:
        return False


def _taken_over(spec: EndpointSpec, replica: Replica, answers: bool) -> EndpointRecord:
    """The record of an endpoint that somebody else started. One that answers goes on answering meanwhile."""
    state = EndpointState.RUNNING if answers else EndpointState.DEPLOYING
    record = EndpointRecord(spec=spec, desired="Running", state=state, since=datetime.now(UTC), on_cluster=True)
    changes = {"generation": replica.generation, "replica_generation": replica.generation, "replica": replica}
    if answers:
        changes |= {"ever_ready": True, "engine_version": replica.engine_version}
    return record.model_copy(update=changes)
