"""Keys and roles of the controller: what each role may, and that every route says which one it needs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from modelops_dagster.cli.main import cli
from modelops_dagster.clients.keys import AccessStore
from modelops_dagster.domain.access import Role
from modelops_dagster.services.controller import visitors
from modelops_dagster.services.controller.hub_webhook import WEBHOOK_PATH
from tests.fakes.api import KEY, error_of, key_of, serving, spec


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[TestClient]:
    with serving(home) as client:
        yield client


def operations(api: TestClient) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_route_says_which_role_it_needs(api: TestClient):
    said = {(method, path): op.get("x-required-role") for method, path, op in operations(api)}
    open_to_all = {key for key, role in said.items() if role is None}
    assert open_to_all <= {("get", "/health"), ("post", WEBHOOK_PATH)}, open_to_all
    assert said["get", "/v1/endpoints"] == "viewer"
    assert said["put", "/v1/endpoints/{name}"] == "operator"
    assert said["delete", "/v1/endpoints/{name}"] == "admin"
    for _, path, operation in operations(api):
        if "x-required-role" in operation:
            more = [{}] if operation.get("x-open-to-visitors") else []
            assert operation["security"] == [{"HTTPBearer": []}, *more], path
            assert {"401", "403"} <= set(operation["responses"]), path


@pytest.mark.parametrize("role", list(Role))
def test_every_route_keeps_to_the_role_it_says(api: TestClient, home: Path, role: Role):
    """Asked with a body and parameters that may not hold: a refused role is told so whenever the request holds."""
    key = key_of(home, role)
    api.put("/v1/endpoints/held", json=spec(name="held"), headers=KEY)
    for method, path, operation in operations(api):
        needed = operation.get("x-required-role")
        if needed is None:
            continue
        filled = path.replace("{name}", "held").replace("{alias}", "acme/none")
        body = spec(name="held") if "requestBody" in operation else None
        answer = api.request(method, filled, json=body, params={"confirm": "lags"}, headers=key)
        if role.includes(Role(needed)):
            assert answer.status_code not in (401, 403), (method, path, answer.text)
        else:
            assert answer.status_code in (403, 422), (method, path, answer.text)
            assert answer.json()["error"]["code"] in ("forbidden", "invalid_spec")


def test_a_viewer_is_told_what_is_needed_and_nothing_happens(api: TestClient, home: Path):
    viewer = key_of(home, Role.VIEWER)
    error = error_of(api.put("/v1/endpoints/mine", json=spec(name="mine"), headers=viewer), 403)
    assert error["code"] == "forbidden"
    assert "needs a key with the role operator, and the key of the viewer is a viewer's" in error["message"]
    assert api.get("/v1/endpoints/mine", headers=viewer).status_code == 404
    operator = key_of(home, Role.OPERATOR)
    assert api.put("/v1/endpoints/mine", json=spec(name="mine"), headers=operator).status_code == 200
    assert error_of(api.delete("/v1/endpoints/mine?confirm=mine", headers=operator), 403)["code"] == "forbidden"
    assert api.delete("/v1/endpoints/mine?confirm=mine", headers=key_of(home, Role.ADMIN)).status_code == 202


def test_a_visitor_is_let_to_a_public_endpoint_and_to_nothing_else(api: TestClient):
    for name, visibility in (("seen", "public"), ("hidden", "private")):
        api.put(f"/v1/endpoints/{name}", json=spec(name=name, visibility=visibility), headers=KEY)
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    assert api.get("/v1/endpoints/seen/card").json()["name"] == "seen"
    assert set(api.get("/v1/endpoints/seen/card").json()) == {"name", "served_model_name", "state", "answers"}
    assert api.get("/v1/endpoints/seen/metrics").status_code == 200
    assert error_of(api.post("/v1/endpoints/seen/chat", json=chat), 409)["code"] == "endpoint_not_running"
    for name in ("hidden", "nobody"):
        for path in ("card", "metrics"):
            assert error_of(api.get(f"/v1/endpoints/{name}/{path}"), 401), "neither is told from the other"
        assert error_of(api.post(f"/v1/endpoints/{name}/chat", json=chat), 401)
    for method, path, operation in operations(api):
        if "x-required-role" in operation and not operation.get("x-open-to-visitors"):
            answer = api.request(method, path.replace("{name}", "seen").replace("{alias}", "acme/none"))
            assert error_of(answer, 401)["code"] == "unauthorized", path
    wrong = {"Authorization": "Bearer wrong"}
    assert error_of(api.get("/v1/endpoints/seen/card", headers=wrong), 401), "a wrong key is told so"


def test_a_visitor_may_not_ask_without_a_pause(api: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(visitors, "PER_S", 0.0)  # so that a slow machine is as fast as any
    api.put("/v1/endpoints/seen", json=spec(name="seen", visibility="public"), headers=KEY)
    for name in ("nobody", "seen"):
        answers = [api.get(f"/v1/endpoints/{name}/metrics") for _ in range(int(visitors.BURST) + 1)]
        assert error_of(answers[-1], 429)["code"] == "too_many_visitors"
        assert answers[-1].headers["retry-after"] == "1"
    assert api.get("/v1/endpoints/seen/metrics", headers=KEY).status_code == 200, "who has a key is no visitor"


def test_talking_to_a_private_endpoint_needs_an_operator(api: TestClient, home: Path):
    api.put("/v1/endpoints/hidden", json=spec(name="hidden", visibility="private"), headers=KEY)
    api.put("/v1/endpoints/seen", json=spec(name="seen", visibility="public"), headers=KEY)
    assert api.post("/v1/endpoints/seen/stop", headers=KEY).is_success
    chat, viewer = {"messages": [{"role": "user", "content": "hi"}]}, key_of(home, Role.VIEWER)
    assert error_of(api.post("/v1/endpoints/hidden/chat", json=chat, headers=viewer), 403)["code"] == "forbidden"
    assert (
        error_of(api.post("/v1/endpoints/seen/chat", json=chat, headers=viewer), 409)["code"] == "endpoint_not_running"
    )


def test_a_revoked_key_is_refused_at_once(api: TestClient, home: Path):
    store = AccessStore(home)
    key, record = store.create("leaver", Role.OPERATOR)
    headers = {"Authorization": f"Bearer {key}"}
    assert api.get("/v1/endpoints", headers=headers).status_code == 200
    store.revoke(record.key_id)
    assert error_of(api.get("/v1/endpoints", headers=headers), 401)["code"] == "unauthorized"
    assert error_of(api.get("/v1/endpoints", headers={"Authorization": f"Bearer {key} "}), 401)


def test_a_key_store_that_cannot_be_read_lets_nobody_in_but_the_homes_own_key(api: TestClient, home: Path):
    key, record = AccessStore(home).create("torn", Role.ADMIN)
    path = home / "secrets" / "access" / f"{record.key_id}.json"
    path.write_text("{")
    answer = api.get("/v1/endpoints", headers={"Authorization": f"Bearer {key}"})
    assert error_of(answer, 503)["code"] == "keys_unreadable"
    assert str(home) not in answer.text
    assert api.get("/v1/endpoints", headers=KEY).status_code == 200
    path.unlink()


def test_access_commands(tmp_path: Path):
    def modelops(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["access", *arguments], env={"MODELOPS_HOME": str(tmp_path)})
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "No keys but the home's own" in modelops("list")
    made = json.loads(modelops("create", "--alias", "dashboard", "--json"))
    assert (made["role"], made["alias"], made["key"][:3]) == ("viewer", "dashboard", "mo-")
    assert "key_sha256" not in made
    assert modelops("create", "--alias", "pipeline", "--role", "operator").startswith("mo-")
    assert [r["role"] for r in json.loads(modelops("list", "--json"))] == ["viewer", "operator"]
    assert made["key"] not in modelops("list")
    assert "is revoked" in modelops("revoke", made["key_id"])
    assert AccessStore(tmp_path).lookup(made["key"]) is None
    kept = (tmp_path / "secrets" / "access" / f"{made['key_id']}.json").read_text()
    assert made["key"].removeprefix("mo-") not in kept
