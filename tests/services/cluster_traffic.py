"""A cluster whose pods answer, the controller that runs endpoints on it, the gateway before them, and callers."""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.moves import Moves
from modelops_dagster.clients.rollout import Rollout
from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import Grant, Route
from tests.fakes.cluster.containers import is_ready
from tests.fakes.cluster.live import LiveCluster
from tests.fakes.cluster.stack import ClusterStack
from tests.fakes.stack import ROOT, wait_until
from tests.services.gateway_process import PROMPT, Gateway, Load

WAIT_S = 90.0
# a stream takes half a second; with SLOW, a second, so that it is still under way when its engine is told to end
SPEED = ("--tokens-per-second", "14")
SLOW = ("--tokens-per-second", "7")
ANSWER = f"You asked: {PROMPT}. The answer is 42."
_GATEWAY = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.fakes.cluster.network import resolve
resolve(Path({names!r}))
from modelops_dagster.services.gateway.__main__ import main
main()
"""


class Callers(Load):
    """Three clients that stream without a pause. What answered is the endpoint, or what came instead of an answer."""

    def _outcome(self, answer: httpx.Response) -> str:
        said = "".join(_words(answer.text)).strip()
        whole = answer.status_code == 200 and said == ANSWER and answer.text.rstrip().endswith("[DONE]")
        who = answer.headers.get("x-litellm-model-id", "nobody")
        return who.split("@")[0] if whole else f"{answer.status_code} {who}: {said or answer.text}"

    def failed(self, *endpoints: str) -> list[tuple[float, float, str]]:
        """The calls that none of these endpoints answered."""
        return [call for call in self.calls if call[2] not in endpoints]

    def wait_for(self, endpoint: str, count: int = 1) -> None:
        """Wait until so many more calls that begin from now on were answered by the endpoint.

        A scenario ends with it, so that there are calls after the last thing that happened.
        """
        since = time.monotonic()
        wait_until(
            lambda: [c for c in list(self.calls) if c[0] >= since and c[2] == endpoint],
            lambda found: len(found) >= count,
            WAIT_S,
        )


class Stage:
    """What a scenario plays on."""

    def __init__(self, cluster: LiveCluster, stack: ClusterStack, gateway: Gateway) -> None:
        self.cluster, self.stack, self.gateway = cluster, stack, gateway
        self.served = GatewayClient(gateway.url)
        self.rollout = Rollout(gateway.routes, self.served)
        self.moves = Moves(self.rollout, gateway.routes, lambda: stack.client)
        self.key = gateway.key()
        self.override = Grant(reason="a scenario", by="tester", at=datetime.now(UTC))

    def deploy(self, name: str, *engine_args: str, **fields: Any) -> EndpointStatus:
        """An endpoint all of whose replicas answer."""
        self.stack.client.apply(self.stack.spec(*SPEED, *engine_args, name=name, **fields))
        self.all_answer(name, int(fields.get("min_replicas", 1)))
        return self.running(name)

    def running(self, name: str) -> EndpointStatus:
        found = wait_until(
            lambda: self.stack.client.get(name),
            lambda s: s and s.state is EndpointState.RUNNING and s.url and not s.condition,
            WAIT_S,
        )
        assert found is not None
        return found

    def all_answer(self, name: str, count: int) -> None:
        """Wait until there are so many replicas, all of them ready, beside those that are to end."""

        def ready() -> list[bool]:
            return [is_ready(pod) for pod in self.pods(name) if "deletionTimestamp" not in pod["metadata"]]

        wait_until(ready, lambda found: found == [True] * count, WAIT_S)

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.cluster.pods(modelops_dev__endpoint=name)

    def names(self, name: str) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods(name)}

    def put(self, alias: str, **settings: Any) -> Route:
        """The alias, answered by the endpoint of the same name."""
        found = self.moves.set(
            alias, {alias: 1}, target_fields={}, settings=settings, reason="scenario", override=self.override
        )
        return found.route

    def route(self, alias: str) -> Route:
        found = self.gateway.routes.get(alias)
        assert found is not None
        return found

    @contextlib.contextmanager
    def calls(self, alias: str, key: str | None = None) -> Iterator[Callers]:
        """Callers of the alias, from before the first thing happens."""
        callers = Callers(self.gateway.url, key or self.key, alias)
        with callers:
            wait_until(lambda: len(callers.calls) >= 3, timeout_s=WAIT_S)
            yield callers

    def clear(self) -> None:
        """Leave nothing to the next scenario: no endpoint, no route, every node as it was."""
        for node in self.cluster.nodes.values():
            node.cordoned = False
            self.cluster.power_on(node.name)
        self.cluster.hurried = True  # nobody calls: no pod need sleep before it ends
        self.delete(*(status.spec.name for status in self.stack.client.list()))
        self.cluster.hurried = False
        for alias in self.gateway.routes.aliases():
            self.gateway.routes.delete(alias, self.route(alias).version)

    def delete(self, *names: str) -> None:
        for name in names:
            self.stack.client.delete(name)
        for name in names:
            self.stack.client.wait_deleted(name, WAIT_S)


@contextlib.contextmanager
def open_gateway(stack: ClusterStack, cluster: LiveCluster) -> Iterator[Gateway]:
    """The real gateway, which finds Services by their names as a pod would."""
    code = _GATEWAY.format(root=str(ROOT), names=str(cluster.network.names))
    gateway = Gateway(stack.home, code, settings={"MODELOPS_CONTROLLER_PORT": str(stack.port)})
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.stop()


@contextlib.contextmanager
def open_stage(folder: Path, cluster: LiveCluster) -> Iterator[Stage]:
    stack = ClusterStack(folder, cluster.api.kubeconfig(folder))
    stack.up()
    try:
        with open_gateway(stack, cluster) as gateway:
            yield Stage(cluster, stack, gateway)
    finally:
        stack.down()


def _words(text: str) -> Iterator[str]:
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            for choice in json.loads(data).get("choices") or []:
                yield str((choice.get("delta") or {}).get("content") or "")
