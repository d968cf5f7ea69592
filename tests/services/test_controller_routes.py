"""Routes and batches over REST: the same changes as the commands make, by compare-and-swap."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.access import Role
from tests.fakes.api import KEY, error_of, key_of, serving, spec

ALIAS = "acme/tiny"
BECAUSE = {"override_reason": "a rehearsal"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[TestClient]:
    """A controller with two endpoints that run and one that does not."""
    with serving(home) as client:
        for name in ("old", "new"):
            body = spec(name=name, served_model_name=name, checkpoint=str(home))
            client.put(f"/v1/endpoints/{name}", json=body, headers=KEY)
        client.put("/v1/endpoints/gone", json=spec(name="gone"), headers=KEY)
        deadline = time.monotonic() + 20
        while any(client.get(f"/v1/endpoints/{n}", headers=KEY).json()["url"] is None for n in ("old", "new")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield client


@pytest.fixture
def route(api: TestClient, home: Path) -> Iterator[str]:
    """An alias of its own for the test, answered by `old`."""
    alias = f"{ALIAS}-{time.monotonic_ns()}"
    changed(api.put(f"/v1/routes/{alias}", json={"weights": {"old": 1}, **BECAUSE}, headers=KEY))
    yield alias
    RouteStore(home / "gateway").delete(alias, api.get(f"/v1/routes/{alias}", headers=KEY).json()["route"]["version"])


def changed(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def weights(body: dict[str, Any]) -> dict[str, int]:
    return {t["endpoint"]: t["weight"] for t in body["route"]["targets"]}


def test_a_route_is_made_shown_and_listed(api: TestClient, home: Path, route: str):
    shown = changed(api.get(f"/v1/routes/{route}", headers=KEY))
    assert weights(shown) == {"old": 1}
    (target,) = shown["route"]["targets"]
    assert target["grant"]["reason"] == "a rehearsal"
    assert target["grant"]["by"] == "home"
    assert [r["version"] for r in shown["history"]] == [1]
    assert route in {r["alias"] for r in api.get("/v1/routes", headers=KEY).json()["routes"]}
    stored = RouteStore(home / "gateway").get(route)
    assert stored is not None
    assert stored.model_dump(mode="json") == shown["route"], "the commands see the same document"


def test_what_is_left_out_stays_and_null_clears(api: TestClient, route: str):
    body = {"timeout_s": 30, "sticky": True, "fallbacks": [ALIAS]}
    set_ = changed(api.put(f"/v1/routes/{route}", json=body, headers=KEY))["route"]
    assert (set_["timeout_s"], set_["sticky"], set_["fallbacks"]) == (30, True, [ALIAS])
    kept = changed(api.put(f"/v1/routes/{route}", json={"timeout_s": None, "fallbacks": None}, headers=KEY))["route"]
    assert (kept["timeout_s"], kept["sticky"], kept["fallbacks"]) == (None, True, [])
    assert kept["version"] == 3


def test_a_change_is_of_the_version_that_was_read(api: TestClient, route: str):
    error = error_of(api.put(f"/v1/routes/{route}", json={"sticky": True, "expected_version": 7}, headers=KEY), 409)
    assert (error["code"], "is at version 1 and not 7" in error["message"]) == ("conflict", True)
    assert changed(api.put(f"/v1/routes/{route}", json={"sticky": True, "expected_version": 1}, headers=KEY))
    error_of(api.put(f"/v1/routes/{route}", json={"weights": {"old": 2}, "expected_version": 0}, headers=KEY), 409)


def test_canary_promote_and_rollback(api: TestClient, route: str):
    started = changed(
        api.post(f"/v1/routes/{route}/canary", json={"endpoint": "new", "percent": 5, **BECAUSE}, headers=KEY)
    )
    assert weights(started) == {"old": 9500, "new": 500}
    assert started["route"]["canary"]["endpoint"] == "new"
    assert started["served"] is False
    ended = changed(api.delete(f"/v1/routes/{route}/canary", headers=KEY))
    assert (weights(ended)["new"], ended["route"]["canary"]) == (0, None)
    error = error_of(api.post(f"/v1/routes/{route}/promote", json={}, headers=KEY), 422)
    assert error["field"] == "endpoint"
    promoted = changed(api.post(f"/v1/routes/{route}/promote", json={"endpoint": "new"}, headers=KEY))
    assert weights(promoted) == {"old": 0, "new": 10_000}
    back = changed(api.post(f"/v1/routes/{route}/rollback", json={"to_version": 1}, headers=KEY))
    assert weights(back) == {"old": 1}
    assert back["route"]["reason"] == "back to version 1"
    error = error_of(api.post(f"/v1/routes/{route}/rollback", json={"to_version": 99}, headers=KEY), 422)
    assert error["field"] == "to_version"


def test_an_override_is_an_admins_and_without_one_a_verdict_is_needed(api: TestClient, home: Path, route: str):
    operator = key_of(home, Role.OPERATOR)
    error = error_of(api.put(f"/v1/routes/{route}", json={"weights": {"new": 1}}, headers=operator), 422)
    assert (error["field"], "no verdict passed 'new'" in error["message"]) == ("targets", True)
    body = {"weights": {"new": 1}, **BECAUSE}
    error = error_of(api.put(f"/v1/routes/{route}", json=body, headers=operator), 403)
    assert error["message"].startswith("override_reason needs a key with the role admin")
    moved = changed(api.put(f"/v1/routes/{route}", json={"weights": {"old": 3}}, headers=operator))
    assert moved["route"]["reason"] == "set old=3 by the operator"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"weights": {"nobody": 1}}, "endpoint"),
        ({"weights": {"old": -1}}, "weights.old"),
        ({"weights": {"old": 1.5}}, "weights.old"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"expected_version": -1}, "expected_version"),
        ({"override_reason": "x"}, "override_reason"),
        ({"weight": {"old": 1}}, "weight"),
    ],
)
def test_a_bad_change_names_the_field(api: TestClient, route: str, body: dict[str, Any], field: str):
    assert error_of(api.put(f"/v1/routes/{route}", json=body, headers=KEY), 422)["field"] == field


def test_what_is_not_there_and_what_does_not_run(api: TestClient, route: str):
    assert error_of(api.get("/v1/routes/acme/none", headers=KEY), 404)["code"] == "not_found"
    assert error_of(api.get("/v1/routes/..%2f..%2fetc", headers=KEY), 422)["field"] == "alias"
    error = error_of(api.put(f"/v1/routes/{route}", json={"weights": {"gone": 1}, **BECAUSE}, headers=KEY), 409)
    assert "answers nothing" in error["message"]


def requests(*ids: str) -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    return [{"custom_id": i, "url": "/v1/chat/completions", "body": body} for i in ids]


def test_a_batch_is_submitted_followed_and_cancelled(api: TestClient, home: Path):
    submission = {"requests": requests("a", "b"), "alias": ALIAS, "metadata": {"for": "test"}}
    error = error_of(api.post("/v1/batches", json=submission, headers=KEY), 422)
    assert (error["field"], "none; `modelops keys create` makes one" in error["message"]) == ("key_id", True)
    _, record = KeyStore(home / "gateway").create("payer")
    answer = api.post("/v1/batches", json=submission, headers=KEY)
    assert answer.status_code == 201, answer.text
    batch = answer.json()
    assert (batch["total"], batch["state"], batch["key_id"]) == (2, "in_progress", record.key_id)
    store = BatchStore(home / "gateway")
    assert [r.body["model"] for r in store.requests(batch["input_file_id"])] == [ALIAS, ALIAS]
    path = f"/v1/batches/{batch['batch_id']}"
    assert changed(api.get(path, headers=KEY))["metadata"] == {"for": "test"}
    assert [b["batch_id"] for b in api.get("/v1/batches", headers=KEY).json()["batches"]] == [batch["batch_id"]]
    assert api.get(f"{path}/answers", headers=KEY).text == ""
    store.append(batch["output_file_id"], ['{"custom_id": "a"}\n'])
    assert json.loads(api.get(f"{path}/answers", headers=KEY).text) == {"custom_id": "a"}
    assert api.get(f"{path}/errors", headers=KEY).text == ""
    assert changed(api.post(f"{path}/cancel", headers=KEY))["state"] == "cancelling"


def test_a_bad_batch_is_told_which_line_is_wrong(api: TestClient):
    for bad, told in (
        ({"custom_id": "b", "url": "/v1/other", "body": {"model": "m"}}, "line 2: url '/v1/other'"),
        ({"url": "/v1/chat/completions", "body": {}}, "line 2: custom_id"),
        ({**requests("a")[0], "body": {"stream": True}}, "line 2: a batch does not stream"),
    ):
        body = {"requests": [*requests("a"), bad], "alias": ALIAS}
        assert error_of(api.post("/v1/batches", json=body, headers=KEY), 422)["message"].startswith(told)
    for batch_id in ("batch-000000000000000000000000", "..", "x" * 500):
        assert error_of(api.get(f"/v1/batches/{batch_id}", headers=KEY), 404)
    error_of(api.post("/v1/batches/batch-000000000000000000000000/cancel", headers=KEY), 404)
