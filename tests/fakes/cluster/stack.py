"""The real controller program with a cluster for its endpoints, whose API server is ours or that of `--kubeconfig`."""

import os
import time
from pathlib import Path
from typing import Any

import yaml

from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus
from modelops_dagster.settings import Settings
from tests.fakes.cluster.kubelet import FakeCluster
from tests.fakes.cluster.real import RealCluster
from tests.fakes.stack import Stack, wait_until

WAIT_S = 60.0
IMAGE = "python:3.12-slim"
SITE: dict[str, Any] = {"namespace": "modelops", "images": {"fake": IMAGE}, "placing_timeout_s": 60}


class ClusterStack(Stack):
    """A home whose endpoints are on a cluster."""

    def __init__(self, folder: Path, kubeconfig: Path, **site: Any) -> None:
        super().__init__(folder)
        self.home.mkdir()
        self.checkpoint = self.home / "checkpoints" / "tiny"
        self.checkpoint.mkdir(parents=True)
        (self.home / "kubernetes.yaml").write_text(yaml.safe_dump({**SITE, **site}))
        self.settings = Settings.load(
            {
                "MODELOPS_HOME": str(self.home),
                "MODELOPS_CONTROLLER_PORT": str(self.port),
                "MODELOPS_BACKEND": "kubernetes",
                "MODELOPS_KUBECONFIG": str(kubeconfig),
            }
        )

    def down(self) -> None:
        if self.program is not None and self.program.poll() is None:
            self.kill()


AnyCluster = FakeCluster | RealCluster


class Bench:
    """Where the suite of endpoint behaviour runs: a stack, and what it cannot ask the platform itself."""

    name = "machine"

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def spec(self, name: str, *engine_args: str, **fields: object) -> EndpointSpec:
        return self.stack.spec(*engine_args, name=name, **fields)

    def engines(self, name: str) -> set[str]:
        """The engines of an endpoint that are there now, by something that no other start has."""
        return {str(pid) for pid, log in self.stack.engines().items() if log.parent.name == name}


class ClusterBench(Bench):
    """The same on a cluster."""

    name = "cluster"

    def __init__(self, stack: Stack, cluster: AnyCluster) -> None:
        super().__init__(stack)
        self.cluster = cluster

    def engines(self, name: str) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.cluster.pods(modelops_dev__endpoint=name)}


def wait_a_moment() -> None:
    """Long enough for something that should not happen to happen."""
    time.sleep(float(os.environ.get("MODELOPS_TEST_MOMENT_S", "0.6")))


def until(stack: ClusterStack, name: str, state: str, condition: str | None = None) -> EndpointStatus:
    """Wait for a state with this condition and no other."""
    found = wait_until(
        lambda: stack.client.get(name), lambda s: s and s.state == state and s.condition == condition, WAIT_S
    )
    assert found is not None
    return found


def told(stack: ClusterStack, name: str, part: str) -> EndpointStatus:
    """Wait for a message."""
    found = wait_until(lambda: stack.client.get(name), lambda s: s and part in s.message, WAIT_S)
    assert found is not None
    return found


def gone(stack: ClusterStack, name: str) -> None:
    stack.client.delete(name)
    stack.client.wait_deleted(name, WAIT_S)
