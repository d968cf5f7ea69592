"""The REST API: who may ask, what a bad request is told, and that nothing makes it answer 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelops_dagster.client import create_token, token_path
from modelops_dagster.domain.endpoints import EndpointSpec
from tests.fakes.api import KEY, error_of, serving, spec
from tests.fakes.checkpoints import stored
from tests.fakes.launcher import FakeLaunch, FakeLauncher


class BrokenLauncher(FakeLauncher):
    """An engine whose own files surprise the code that reads them."""

    def launch(self, spec: EndpointSpec, host: str, port: int) -> FakeLaunch:
        if spec.variant == "broken":
            raise RuntimeError("surprise")
        return super().launch(spec, host, port)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[TestClient]:
    with serving(home, BrokenLauncher()) as client:
        yield client


def put(api: TestClient, body: Any, name: str = "small") -> Any:
    return api.put(f"/v1/endpoints/{name}", json=body, headers=KEY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "key"},
        {"Authorization": "Basic a2V5"},
        {"Authorization": "Bearer key2"},
    ],
)
def test_without_the_key_everything_is_refused(api: TestClient, headers: dict[str, str]):
    for path in ("/v1/endpoints", "/v1/engines", "/v1/endpoints/small", "/no/such/route", "/v1/endpoints?key=key"):
        answer = api.get(path, headers=headers)
        assert error_of(answer, 401)["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    answer = api.put("/v1/endpoints/small", content=b"{not json", headers=headers)
    assert error_of(answer, 401)["code"] == "unauthorized", "the body was read before the key"


def test_health_says_who_it_is_without_a_key(api: TestClient, home: Path):
    body = api.get("/health").json()
    assert (body["service"], body["home"]) == ("modelops-controller", str(home))


def test_openapi_document_names_routes_and_the_key(api: TestClient):
    assert api.get("/docs").status_code == 200
    document = api.get("/openapi.json").json()
    assert {"/v1/endpoints/{name}", "/v1/endpoints/{name}/logs", "/v1/engines", "/health"} <= set(document["paths"])
    assert document["paths"]["/v1/endpoints/{name}"]["put"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in document["paths"]["/health"]["get"]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"name": "9lives"}, "name", "start with a letter"),
        ({"name": "a"}, "name", "at least 2 characters"),
        ({"name": "a--b"}, "name", "is not an endpoint name"),
        ({"checkpoint": "relative/path"}, "checkpoint", "not an absolute path"),
        ({"checkpoint": "/a\0b"}, "checkpoint", "NUL"),
        ({"engine": "../../etc"}, "engine", "is not the name of an engine"),
        ({"engine_args": ["--ok", 5]}, "engine_args.1", "valid string"),
        ({"engine_args": ["a\0b"]}, "engine_args", "NUL"),
        ({"max_context": 0}, "max_context", "greater than 0"),
        ({"max_context": "many"}, "max_context", "valid integer"),
        ({"start_timeout_s": -1}, "start_timeout_s", "greater than 0"),
        ({"served_model_name": ""}, "served_model_name", "at least 1 character"),
        ({"replicas": 2}, "replicas", "replicas is not a field of this document"),
        ({"served_model_name": None}, "served_model_name", "valid string"),
    ],
)
def test_bad_spec_names_the_field(api: TestClient, changes: dict[str, Any], field: str, message: str):
    error = error_of(put(api, spec(**changes)), 422)
    assert (error["code"], error["field"]) == ("invalid_spec", field)
    assert message in error["message"]
    assert error["message"].endswith((".", "remove it."))


def test_missing_field_and_name_that_is_not_the_paths(api: TestClient):
    body = spec()
    del body["engine"]
    assert error_of(put(api, body), 422) == {
        "code": "invalid_spec",
        "message": "engine is missing.",
        "field": "engine",
    }
    error = error_of(put(api, spec(), "other"), 422)
    assert (error["field"], error["message"]) == ("name", "The spec is for endpoint small and the path says other.")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 50_000, b'{"max_context": ' + b"9" * 5000 + b"}", b"NaN"],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "multipart/form-data", ""])
def test_body_that_is_no_spec_is_refused(api: TestClient, content: bytes, content_type: str):
    headers = {**KEY, "Content-Type": content_type}
    answer = api.put("/v1/endpoints/small", content=content, headers=headers)
    assert answer.status_code in (400, 422), answer.text
    error_of(answer, answer.status_code)


def test_a_name_is_created_once(api: TestClient):
    """The seeds' duplicate name: creating is refused, and PUT is how a spec is made true again."""
    assert api.post("/v1/endpoints", json=spec(name="once"), headers=KEY).status_code == 201
    error = error_of(api.post("/v1/endpoints", json=spec(name="once", max_context=512), headers=KEY), 409)
    assert (error["code"], "already" in error["message"]) == ("conflict", True)
    assert api.get("/v1/endpoints/once", headers=KEY).json()["spec"]["max_context"] is None
    assert put(api, spec(name="once"), "once").status_code == 200


def test_what_a_document_leaves_out_is_found(api: TestClient, home: Path):
    checkpoint = stored(home / "checkpoints", "a" * 40)
    answer = api.post("/v1/endpoints", json={"name": "found", "model": "acme/small", "replicas": 2}, headers=KEY)
    assert answer.status_code == 201, answer.text
    made = answer.json()["spec"]
    assert (made["checkpoint"], made["checkpoint_digest"]) == (checkpoint.directory, checkpoint.digest)
    assert (made["engine"], made["min_replicas"], made["max_replicas"]) == ("fake", 2, 2)
    assert made["served_model_name"] == f"acme/small@{'a' * 12}"
    error = error_of(api.post("/v1/endpoints", json={"name": "lost", "model": "acme/none"}, headers=KEY), 422)
    assert (error["field"], "modelops onboard acme/none" in error["message"]) == ("model", True)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"cluster": "east"}, "nodegroups", "nodegroups"),
        ({"cpu_request": 0}, "cpu_request", "greater than 0"),
        ({"cpu_request": 4, "cpu_limit": 2}, "cpu_limit", "cpu_limit"),
        ({"memory_request": 8, "memory_limit": "4Gi"}, "memory_limit", "memory_limit"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas", "max_replicas"),
        ({"autoscale_config": {"targets": []}}, "autoscale_config.targets", "at least 1 item"),
        ({"replicas": 2, "min_replicas": 1}, None, "replicas is a fixed number"),
    ],
)
def test_the_mistakes_of_deployment_apis_are_told_at_their_field(
    api: TestClient, changes: dict[str, Any], field: str | None, message: str
):
    error = error_of(api.post("/v1/endpoints", json=spec(name="wrong", **changes), headers=KEY), 422)
    assert error["field"] == field
    assert message in error["message"]
    assert api.get("/v1/endpoints/wrong", headers=KEY).status_code == 404


def test_body_in_chunks_is_refused_for_it_has_no_end(api: TestClient):
    answer = api.put("/v1/endpoints/small", content=iter([b"{}"]), headers=KEY)
    assert error_of(answer, 411)["code"] == "length_required"


def test_body_that_is_too_large_is_refused_unread(api: TestClient):
    answer = api.put("/v1/endpoints/small", content=b"x" * (1 << 20) + b"y", headers=KEY)
    assert error_of(answer, 413)["code"] == "too_large"


def test_unknown_endpoint_route_and_method(api: TestClient):
    for method, path in (
        ("GET", "/v1/endpoints/nobody"),
        ("POST", "/v1/endpoints/nobody/start"),
        ("POST", "/v1/endpoints/nobody/stop"),
        ("POST", "/v1/endpoints/nobody/restart"),
        ("DELETE", "/v1/endpoints/nobody?confirm=nobody"),
        ("GET", "/v1/endpoints/nobody/logs"),
        ("GET", "/v1/endpoints/..%2Fsecrets"),
        ("GET", "/v1/endpoints/%00"),
    ):
        answer = api.request(method, path, headers=KEY)
        error = error_of(answer, 404)
        assert error["code"] in ("no_such_endpoint", "no_such_route"), path
    assert error_of(api.get("/v1/nothing", headers=KEY), 404)["code"] == "no_such_route"
    assert error_of(api.delete("/v1/endpoints", headers=KEY), 405)["code"] == "method_not_allowed"


def test_log_bounds_and_missing_confirmation(api: TestClient):
    put(api, spec(name="logs"), "logs")
    for query, field in (("tail=-1", "tail"), ("tail=x", "tail"), ("tail=99999", "tail"), ("offset=-1", "offset")):
        assert error_of(api.get(f"/v1/endpoints/logs/logs?{query}", headers=KEY), 422)["field"] == field
    assert api.get("/v1/endpoints/logs/logs?launch_id=..%2F..&offset=5", headers=KEY).json()["text"] == ""
    assert error_of(api.delete("/v1/endpoints/logs", headers=KEY), 422)["field"] == "confirm"
    assert error_of(api.delete("/v1/endpoints/logs?confirm=lags", headers=KEY), 422)["field"] == "confirm"


def test_engines_are_listed(api: TestClient):
    (engine,) = api.get("/v1/engines", headers=KEY).json()["engines"]
    assert (engine["manifest"]["name"], engine["installed"], engine["unavailable_reason"]) == ("fake", True, None)


def test_launcher_that_breaks_fails_the_endpoint_and_not_the_controller(api: TestClient, tmp_path: Path):
    put(api, spec(name="broken", variant="broken", checkpoint=str(tmp_path)), "broken")
    for _ in range(200):
        status = api.get("/v1/endpoints/broken", headers=KEY).json()
        if status["state"] == "BuildingFailed":
            break
    assert (status["state"], status["reason"], status["message"]) == ("BuildingFailed", "bad_config", "surprise")


def test_wish_that_cannot_be_written_is_not_promised(api: TestClient, home: Path):
    (home / "endpoints" / ".unwritten.tmp").mkdir(parents=True)
    error = error_of(put(api, spec(name="unwritten"), "unwritten"), 507)
    assert error["code"] == "disk_full"
    assert api.get("/v1/endpoints/unwritten", headers=KEY).status_code == 404


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
nearly_a_spec = st.fixed_dictionaries(
    {},
    optional={
        field: st.just(value) | anything
        for field, value in {
            **spec(),
            "engine_args": [],
            "variant": None,
            "max_context": 5,
            "start_timeout_s": 1,
        }.items()
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=nearly_a_spec | anything, name=st.sampled_from(["small", "fuzz"]) | st.text(max_size=10))
def test_no_body_makes_it_answer_500(api: TestClient, body: Any, name: str):
    path = "/v1/endpoints/" + "".join(f"%{byte:02X}" for byte in name.encode(errors="surrogatepass"))
    content = json.dumps(body).encode(errors="surrogatepass")
    answer = api.put(path, content=content, headers={**KEY, "Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        error_of(answer, answer.status_code)


# the key's file


def test_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path):
    token = create_token(tmp_path)
    path = token_path(tmp_path)
    assert len(token) >= 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    assert create_token(tmp_path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # what a full disk may leave
    assert create_token(tmp_path) not in ("", token)


def test_arguments_that_the_engine_does_not_take_are_refused_and_nothing_is_promised(api: TestClient):
    error = error_of(put(api, spec(name="argued", engine_args=["--no-such-flag"]), "argued"), 422)
    assert error["field"] == "engine_args"
    assert "--no-such-flag" in error["message"]
    assert api.get("/v1/endpoints/argued", headers=KEY).status_code == 404
