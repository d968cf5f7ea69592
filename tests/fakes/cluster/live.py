"""A fake cluster whose pods are processes: they answer calls at their Service's name, and end as pods do.

What a container runs is what the platform rendered for it. Only its address is another: a pod here has no network of
its own but an address of loopback. The times of a pod's end go by five times as fast as it says.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx

from modelops_dagster.domain.kubernetes.facts import is_ready
from tests.fakes.cluster.containers import BACK_OFF_S, Containers, Running, crashed, told
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.cluster.network import Network, address
from tests.fakes.cluster.store import Manifest, matches
from tests.fakes.stack import wait_until

PACE = 5.0
NODE_LOST_AFTER_S = 2.0
_PROBE_S = 0.1


class Container:
    """One start of a container: a process, what it writes, whether it passes its readiness probe."""

    def __init__(self, argv: Sequence[str], probe: str) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.ready = False
        self.log = ""
        self.told_to_end: float | None = None
        self._terminated = False
        self._probe = probe
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._ask, daemon=True).start()

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def whole_log(self) -> str:
        """Everything it wrote, once it has ended."""
        self._reader.join(10)
        return self.log

    def end(self, pre_stop_s: float, grace_s: float) -> None:
        """One look at a pod that is to end: it is let alone, then told, then killed."""
        now = time.monotonic()
        self.told_to_end = self.told_to_end or now
        since_s = now - self.told_to_end
        if since_s >= grace_s:
            self.process.kill()
        elif since_s >= pre_stop_s and not self._terminated:
            self._terminated = True
            self.process.terminate()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}"

    def _ask(self) -> None:
        with httpx.Client(trust_env=False, timeout=5) as client:
            while self.runs:
                try:
                    self.ready = client.get(self._probe).is_success
                except httpx.TransportError:
                    self.ready = False
                time.sleep(_PROBE_S)


class LiveContainers(Containers):
    """The first container of each pod, as a process at an address of its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._processes: dict[str, Container] = {}
        self._addresses: dict[str, str] = {}

    def forget(self, uid: str) -> None:
        super().forget(uid)
        self._processes.pop(uid, None)

    def kill(self, uid: str) -> None:
        """End what the pod runs, as losing its machine or a bug in it would."""
        if (container := self._processes.get(uid)) is not None:
            container.process.kill()

    def kill_all(self) -> None:
        for container in self._processes.values():
            container.process.kill()
            container.process.wait()

    def has_ended(self, pod: Manifest) -> bool:
        """One look at a pod that is to end; True when nothing of it runs any more."""
        container = self._processes.get(pod["metadata"]["uid"])
        if container is None or not container.runs:
            return True
        container.end(*_end_s(pod))
        return False

    def _run(self, pod: Manifest, container: Manifest, beside: list[Manifest]) -> Manifest | None:
        uid, name, now = pod["metadata"]["uid"], pod["metadata"]["name"], time.monotonic()
        run = self._running.setdefault(uid, Running(now))
        if run.ended is not None and now - run.ended < BACK_OFF_S:
            waiting = {"reason": "CrashLoopBackOff", "message": "back-off restarting container"}
            return crashed(pod, run, beside, waiting)
        if run.ended is not None or uid not in self._processes:
            self._running[uid] = run = Running(now, run.restarts)
            self._processes[uid] = self._start(uid, container)
        process = self._processes[uid]
        if not process.runs:
            return self._ended(pod, run, process.whole_log(), beside)
        self._logs[(name, False)] = process.log
        ready = process.ready and name not in self.muted
        started = process.ready or any(s["started"] for s in pod["status"].get("containerStatuses") or [])
        status = told(pod, {"running": {}}, beside, ready=ready, started=started, restarts=run.restarts)
        return None if status is None else {**status, "podIP": self._addresses[uid]}

    def _start(self, uid: str, container: Manifest) -> Container:
        own = self._addresses.setdefault(uid, address())
        given = [own if word == "0.0.0.0" else word for word in container["args"]]
        check, port = container["readinessProbe"]["httpGet"], container["ports"][0]["containerPort"]
        return Container([sys.executable, *given], f"http://{own}:{port}{check['path']}")


class LiveCluster(FakeCluster):
    """A `FakeCluster` of processes, with a network. `network.names` is for programs that ask for a Service."""

    def __init__(self, folder: Path, *nodes: Node) -> None:
        super().__init__(*nodes)
        self.network = Network(folder)
        self._live = LiveContainers(self._has_secret, self.api.logs)
        self._containers = self._live
        self.missing_images, self.muted, self.evicted, self.programs = (
            self._live.missing_images,
            self._live.muted,
            self._live.evicted,
            self._live.programs,
        )
        self.hurried = False  # a knob: pods that are to end are killed at once
        self._dark: dict[str, float] = {}  # nodes without power, and since when

    def __enter__(self) -> Self:
        self.network.__enter__()
        return super().__enter__()

    def __exit__(self, *rest: object) -> None:
        super().__exit__(*rest)
        self._live.kill_all()
        self.network.__exit__(*rest)

    # what a test does

    def power_off(self, name: str) -> None:
        """Lose a machine without a word: its engines are gone at once, and the cluster finds out later."""
        with self.api.store.lock:
            self._dark[name] = time.monotonic()
            for pod in self._pods_on(name):
                self._live.kill(pod["metadata"]["uid"])

    def power_on(self, name: str) -> None:
        with self.api.store.lock:
            self._dark.pop(name, None)
            self.nodes[name].ready = True

    def drain(self, name: str, timeout_s: float = 60.0) -> None:
        """As `kubectl drain` does: the node takes nothing new, and its pods go as fast as their budgets let them."""
        self.nodes[name].cordoned = True

        def left() -> list[Manifest]:
            with self.api.store.lock:
                for pod in self._pods_on(name):
                    if "deletionTimestamp" not in pod["metadata"] and self._may_be_evicted(pod):
                        self.evict(pod["metadata"]["name"])
                return self._pods_on(name)

        wait_until(left, lambda pods: not pods, timeout_s)

    def kill_engine(self, pod: Manifest) -> None:
        """What a bug in an engine does to it."""
        self._live.kill(pod["metadata"]["uid"])

    def _pods_on(self, node: str) -> list[Manifest]:
        return [p for p in self.pods() if p["spec"].get("nodeName") == node]

    def _may_be_evicted(self, pod: Manifest) -> bool:
        """What the budgets of the pod say, as the eviction API asks them."""
        for budget in self.objects("poddisruptionbudgets"):
            selector = budget["spec"]["selector"]["matchLabels"]
            if matches(pod, selector):
                workloads = [w for w in self.objects("deployments") if matches(w, selector)]
                wanted = sum(int(w["spec"].get("replicas", 1)) for w in workloads)
                healthy = [p for p in self.pods() if matches(p, selector) and is_ready(p)]
                if is_ready(pod) and len(healthy) - 1 < wanted - budget["spec"]["maxUnavailable"]:
                    return False
        return True

    # what the cluster does

    def _tick(self) -> None:
        for name, since in self._dark.items():
            self.nodes[name].ready = time.monotonic() - since < NODE_LOST_AFTER_S
        super()._tick()
        self.network.follow({_name(service): self._behind(service) for service in self.objects("services")})

    def _behind(self, service: Manifest) -> list[str]:
        found = [p for p in self.pods() if matches(p, service["spec"]["selector"]) and is_ready(p)]
        return [pod["status"]["podIP"] for pod in found]

    def _drive(self, pod: Manifest) -> None:
        if pod["spec"].get("nodeName") in self._dark:
            return  # nobody is there to do it
        ends = "deletionTimestamp" in pod["metadata"]
        if ends and self.hurried:
            self._live.kill(pod["metadata"]["uid"])
        if not ends or self._live.has_ended(pod):
            super()._drive(pod)


def _end_s(pod: Manifest) -> tuple[float, float]:
    """Seconds until it is told to end, and until it is killed."""
    hook = (pod["spec"]["containers"][0].get("lifecycle") or {}).get("preStop") or {}
    sleep_s = float((hook.get("sleep") or {}).get("seconds", 0))
    return sleep_s / PACE, float(pod["spec"].get("terminationGracePeriodSeconds", 30)) / PACE


def _name(service: Manifest) -> tuple[str, int]:
    metadata = service["metadata"]
    return f"{metadata['name']}.{metadata['namespace']}.svc", int(service["spec"]["ports"][0]["port"])
