"""Every verb of the Python client against the real controller with the fake engine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.keys import AccessStore, KeyStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.access import Role
from modelops_dagster.domain.errors import Conflict, EndpointFailed, Forbidden, InvalidSpec, NotFound
from tests.fakes.stack import Stack

ALIAS = "acme/tiny"
BECAUSE = {"override_reason": "a rehearsal"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("client")).up()
    stack.ready(name="old")
    stack.ready(name="new")
    yield stack
    stack.down()


@pytest.fixture
def client(running: Stack) -> Iterator[ModelOpsClient]:
    yield running.client
    store = RouteStore(running.home / "gateway")
    for route in store.list():
        store.delete(route.alias, route.version)


def weights(client: ModelOpsClient, alias: str = ALIAS) -> dict[str, int]:
    route = client.get_route(alias)
    assert route is not None
    return {t.endpoint: t.weight for t in route.targets}


def test_an_endpoint_is_created_once_listed_and_deleted(running: Stack, client: ModelOpsClient):
    client.create_endpoint(running.spec(name="third"))
    with pytest.raises(Conflict, match="already"):
        client.create_endpoint(running.spec(name="third"))
    assert [s.spec.name for s in client.list_endpoints()] == ["new", "old", "third"]
    client.delete_endpoint("third")
    client.wait_deleted("third")
    with pytest.raises(InvalidSpec, match="modelops onboard acme/none"):
        client.create_endpoint(name="fourth", model="acme/none", replicas=2)


def test_traffic_is_split_moved_and_put_back(client: ModelOpsClient):
    client.set_route(ALIAS, {"old": 1}, **BECAUSE)
    started = client.create_canary(ALIAS, "new", traffic_percentage=5, **BECAUSE)
    assert weights(client) == {"old": 9500, "new": 500}
    assert started.route.canary is not None
    assert started.served is False
    assert client.end_canary(ALIAS).route.canary is None
    client.update_endpoint_traffic(ALIAS, {"old": 0.5, "new": 0.5})
    assert weights(client) == {"old": 5000, "new": 5000}
    client.update_endpoint_traffic(ALIAS, {"new": 1.0})
    assert weights(client) == {"old": 0, "new": 10_000}
    client.rollback(ALIAS)
    assert weights(client) == {"old": 5000, "new": 5000}
    client.promote(ALIAS, "old")
    assert weights(client) == {"old": 10_000, "new": 0}
    assert [r.alias for r in client.list_routes()] == [ALIAS]


def test_what_is_wrong_with_a_route_comes_back_as_the_error_it_is(running: Stack, client: ModelOpsClient):
    assert client.get_route("acme/none") is None
    with pytest.raises(InvalidSpec) as unknown:
        client.set_route(ALIAS, {"nobody": 1})
    assert unknown.value.field == "endpoint"
    with pytest.raises(InvalidSpec, match="not 1 together"):
        client.update_endpoint_traffic(ALIAS, {"old": 0.5, "new": 0.4})
    with pytest.raises(InvalidSpec, match="not an alias"):
        client.get_route("../batches")
    client.set_route(ALIAS, {"old": 1}, **BECAUSE)
    with pytest.raises(Conflict, match="and not 999; read it again"):
        client.set_route(ALIAS, sticky=True, expected_version=999)
    client.create_endpoint(running.spec("--load-s", "30", name="loading"))
    with pytest.raises(EndpointFailed, match="answers nothing"):
        client.create_canary(ALIAS, "loading", **BECAUSE)
    client.delete("loading")
    client.wait_deleted("loading")


def test_a_role_that_is_not_enough_is_told(running: Stack, client: ModelOpsClient):
    key, _ = AccessStore(running.home).create("dashboard", Role.VIEWER)
    viewer = ModelOpsClient(f"http://127.0.0.1:{running.port}", key)
    assert viewer.get("old") is not None
    with pytest.raises(Forbidden, match="needs a key with the role operator"):
        viewer.stop("old")
    viewer.close()
    assert client.check_endpoint_health("old").status == "healthy"


def request(custom_id: str) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    return {"custom_id": custom_id, "url": "/v1/chat/completions", "body": body}


def test_a_batch_from_a_file_and_from_requests(running: Stack, client: ModelOpsClient, tmp_path: Path):
    KeyStore(running.home / "gateway").create("payer")
    path = tmp_path / "batch.jsonl"
    path.write_text('{"custom_id": "1", "url": "/v1/completions", "body": {"prompt": "hi"}}\n\n')
    from_file = client.submit_batch(path, alias=ALIAS)
    from_memory = client.submit_batch([request("a"), request("b")], alias=ALIAS)
    assert {b.batch_id for b in client.list_batches()} == {from_file.batch_id, from_memory.batch_id}
    found = client.get_batch(from_memory.batch_id)
    assert found is not None
    assert (found.total, found.endpoint) == (2, "/v1/chat/completions")
    assert client.batch_answers(from_memory.batch_id) == []
    assert client.batch_errors(from_memory.batch_id) == []
    assert client.cancel_batch(from_memory.batch_id).state == "cancelling"
    assert client.get_batch("batch-none") is None
    with pytest.raises(NotFound):
        client.batch_answers("../../etc")
    path.write_text("{}\nnot json\n")
    with pytest.raises(InvalidSpec, match=r"line 2 of .* is not JSON"):
        client.submit_batch(path, alias=ALIAS)
