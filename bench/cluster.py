"""Five hundred endpoints with five thousand pods: what the controller needs to follow a cluster.

The API server is the tests' own, filled with what the platform would have applied; the controller is the real program,
with an empty home, so that it first takes over what runs. Then pods change at 5,000 events a minute.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.figures import Figure
from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.kubernetes import Site, render
from modelops_dagster.domain.kubernetes.names import LAUNCH_ANNOTATION, SPEC_ANNOTATION
from modelops_dagster.settings import Settings
from tests.fakes.cluster.server import FakeApiServer
from tests.fakes.cluster.stack import ClusterStack
from tests.fakes.cluster.store import Manifest
from tests.fakes.stack import ROOT, wait_until

ENDPOINTS = 500
REPLICAS = 10
EVENTS_PER_MINUTE = 5000
MEASURED_S = 20.0


class _RealController(ClusterStack):
    """The program as it is deployed, with its own pace."""

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **self.settings.environ()}
        command = [sys.executable, "-m", "modelops_dagster.services.controller", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def up(self, *arguments: str) -> "_RealController":
        self.program = self.run(*arguments)
        wait_until(self._answers, timeout_s=300)
        self.client = ModelOpsClient.from_settings(self.settings)
        return self


def run() -> Iterator[Figure]:
    """Yields the time to take over, memory, CPU at rest and under events, and calls of the API server."""
    with tempfile.TemporaryDirectory() as name, FakeApiServer() as server:
        folder = Path(name)
        stack = _RealController(folder, server.kubeconfig(folder))
        pods = _fill(server, stack)
        print(f"bench cluster: {ENDPOINTS} endpoints, {len(pods)} pods", file=sys.stderr)
        try:
            yield from _measure(server, stack, pods)
        finally:
            stack.down()


def _fill(server: FakeApiServer, stack: ClusterStack) -> list[Manifest]:
    """Put every endpoint's workload and ready pods on the server."""
    settings = Settings.load({"MODELOPS_HOME": str(stack.home)})
    engines = EngineRegistry.from_settings(settings).manifests()
    site = Site(checkpoint_root=str(stack.home / "checkpoints"))
    pods = []
    for number in range(ENDPOINTS):
        spec = EndpointSpec(
            name=f"endpoint-{number:03d}",
            checkpoint=f"{stack.home}/checkpoints/org/model/{number}",
            checkpoint_digest="sha256:0",
            engine="vllm",
            served_model_name="org/model",
            gpus=1,
            min_replicas=REPLICAS,
            max_replicas=REPLICAS,
        )
        workload = next(o for o in render(spec, site, engines) if o["kind"] == "Deployment")
        text = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        workload["metadata"]["annotations"] |= {SPEC_ANNOTATION: text, LAUNCH_ANNOTATION: f"launch{number}"}
        name = workload["metadata"]["name"]
        server.store.create(("deployments", site.namespace, name), workload, validate=False)
        template = workload["spec"]["template"]
        for replica in range(REPLICAS):
            metadata = {"name": f"{name}-{replica}", "namespace": site.namespace, **template["metadata"]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
            pod["status"] = _status(ready=True) | {"podIP": f"10.{number // 250}.{number % 250}.{replica + 1}"}
            pods.append(server.store.create(("pods", site.namespace, metadata["name"]), pod, validate=False))
    return pods


def _status(*, ready: bool) -> Manifest:
    said = {"name": "engine", "image": "vllm", "restartCount": 0, "state": {"running": {}}}
    said |= {"started": True, "ready": ready}
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
    return {"phase": "Running", "containerStatuses": [said], "conditions": conditions}


def _measure(server: FakeApiServer, stack: ClusterStack, pods: list[Manifest]) -> Iterator[Figure]:
    begun = time.perf_counter()
    stack.up()
    assert stack.program is not None
    controller = psutil.Process(stack.program.pid)
    wait_until(lambda: sum(s.url is not None for s in stack.client.list()), lambda n: n == ENDPOINTS, timeout_s=300)
    yield _figure("all_taken_over_s", time.perf_counter() - begun, "s")
    yield _figure("rss_mib", controller.memory_info().rss / 2**20, "MiB")
    server.counts.clear()
    yield _figure("idle_cpu_percent", _cpu(controller, lambda: time.sleep(MEASURED_S)), "% of a core")
    yield _figure("idle_calls_per_minute", _calls(server), "calls")
    server.counts.clear()
    yield _figure("events_cpu_percent", _cpu(controller, lambda: _events(server, pods)), "% of a core")
    yield _figure("events_calls_per_minute", _calls(server), "calls")
    last = pods[-1]["metadata"]
    began = time.perf_counter()
    for pod in pods[-REPLICAS:]:
        _flip(server, pod, ready=False)
    wait_until(lambda: stack.client.get(last["annotations"]["modelops.dev/name"]), lambda s: s and s.url is None)
    yield _figure("told_after_s", time.perf_counter() - began, "s")


def _calls(server: FakeApiServer) -> float:
    return sum(server.counts.values()) * 60 / MEASURED_S


def _cpu(process: psutil.Process, meanwhile: Callable[[], None]) -> float:
    before, since = process.cpu_times(), time.perf_counter()
    meanwhile()
    after = process.cpu_times()
    used_s = after.user + after.system - before.user - before.system
    return used_s / (time.perf_counter() - since) * 100


def _events(server: FakeApiServer, pods: list[Manifest]) -> None:
    """Pods that are not ready for a moment, one after the other, at the pace."""
    count = int(EVENTS_PER_MINUTE * MEASURED_S / 60)
    begun = time.perf_counter()
    for number in range(count):
        _flip(server, pods[(number // 2 * REPLICAS) % len(pods)], ready=number % 2 == 1)
        time.sleep(max(0.0, begun + (number + 1) * 60 / EVENTS_PER_MINUTE - time.perf_counter()))


def _flip(server: FakeApiServer, pod: Manifest, *, ready: bool) -> None:
    key = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
    server.store.update(key, {"status": _status(ready=ready)}, "kubelet")


def _figure(metric: str, value: float, unit: str) -> Figure:
    return Figure("cluster", metric, value, unit, f"{ENDPOINTS} endpoints, {ENDPOINTS * REPLICAS} pods")
