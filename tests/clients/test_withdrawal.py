"""A model that its publisher took back: no route, no running endpoint of it, and its history still there."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.withdrawal import withdraw
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import NotRunning
from modelops_dagster.domain.gateway import RouteTarget, with_targets

AT = datetime(2026, 1, 2, tzinfo=UTC)


class FollowingGateway(GatewayClient):
    """A gateway that follows at once, or is away."""

    def __init__(self, *, away: bool = False) -> None:
        super().__init__("http://127.0.0.1:1")
        self.away = away
        self.told: list[tuple[str, int | None]] = []

    def visible(self, alias: str, version: int | None, timeout_s: float = 10) -> None:
        if self.away:
            raise NotRunning("The gateway does not answer; start it.")
        self.told.append((alias, version))


class Endpoints:
    """What a controller knows, in memory."""

    def __init__(self, **served: str) -> None:
        self.served = served
        self.stopped: list[str] = []

    def list(self) -> list[EndpointStatus]:
        return [
            EndpointStatus(
                spec=EndpointSpec(
                    name=name, checkpoint="/c", checkpoint_digest="sha256:0", engine="e", served_model_name=served
                ),
                desired="Stopped" if name in self.stopped else "Running",
                state=EndpointState.RUNNING,
                since=AT,
            )
            for name, served in self.served.items()
        ]

    def stop(self, name: str) -> None:
        self.stopped.append(name)


def target(name: str) -> RouteTarget:
    return RouteTarget(endpoint=name, url="http://127.0.0.1:1/v1", served_model_name="m", commit_hash="c" * 40)


def test_the_route_goes_its_endpoints_stop_and_the_history_stays(tmp_path: Path):
    routes, gateway = RouteStore(tmp_path), FollowingGateway()
    endpoints = Endpoints(one="acme/a@c-raw", kept="acme/a@d-raw", other="acme/ab@c-raw")
    routes.put(with_targets(None, "acme/a", [target("one"), target("kept")], at=AT), 0)
    routes.put(with_targets(None, "best", [target("kept")], at=AT), 0)
    done = withdraw(routes, gateway, endpoints, "acme/a")
    assert done == (1, ("one",))
    assert routes.aliases() == ("best",)
    assert gateway.told == [("acme/a", None)]
    assert [len(r.targets) for r in routes.history("acme/a")] == [2, 0]
    assert withdraw(routes, gateway, endpoints, "acme/a") == (None, ())


def test_a_withdrawal_that_was_cut_short_is_completed(tmp_path: Path):
    routes, endpoints = RouteStore(tmp_path), Endpoints(one="acme/a@c-raw")
    routes.put(with_targets(None, "acme/a", [target("one")], at=AT), 0)
    with pytest.raises(NotRunning):
        withdraw(routes, FollowingGateway(away=True), endpoints, "acme/a")
    assert withdraw(routes, FollowingGateway(), endpoints, "acme/a").stopped == ("one",)


def test_the_routes_of_quantized_lanes_go_too(tmp_path: Path):
    routes, gateway = RouteStore(tmp_path), FollowingGateway()
    endpoints = Endpoints(raw="acme/a@c-raw", eight="acme/a@c-int8")
    routes.put(with_targets(None, "acme/a", [target("raw")], at=AT), 0)
    routes.put(with_targets(None, "acme/a:int8", [target("eight")], at=AT), 0)
    assert withdraw(routes, gateway, endpoints, "acme/a").stopped == ("raw", "eight")
    assert routes.aliases() == ()
    assert gateway.told == [("acme/a", None), ("acme/a:int8", None)]
