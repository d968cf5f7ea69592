"""Every route of the OpenAPI document, asked with what it allows and with what it does not: no 500, no traceback."""

import json
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelops_dagster.clients.keys import KeyStore
from tests.fakes.api import KEY, error_of, serving, spec
from tests.fakes.schemas import ANYTHING, NASTY, nearly

ALIAS = "acme/tiny"
NAMES = st.sampled_from(["small", "broken", "nobody"])
KNOWN = {
    "name": NAMES,
    "alias": st.just(ALIAS),
    "endpoint": NAMES,
    "*key": NAMES,
    "engine": st.just("fake"),
    "url": st.just("/v1/chat/completions"),
    "override_reason": st.just("a rehearsal"),
    "since": st.sampled_from(["1h", "0s", "2026-01-01", "9999-12-31T23:59:59Z", "999999d"]),
}
STATED = {
    "served_model_name": "small@abc",
    "name": "small",
    "engine": "fake",
    "checkpoint": "/no/such/checkpoint",
    "checkpoint_digest": "sha256:0",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("home")
    KeyStore(home / "gateway").create("payer")
    with serving(home, usd_per_hour=1.0) as client:
        client.put("/v1/endpoints/small", json=spec(checkpoint=str(home)), headers=KEY)
        client.put("/v1/endpoints/broken", json=spec(name="broken"), headers=KEY)
        deadline = time.monotonic() + 20
        while client.get("/v1/endpoints/small", headers=KEY).json()["url"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        body = {"weights": {"small": 1}, "override_reason": "a rehearsal"}
        assert client.put(f"/v1/routes/{ALIAS}", json=body, headers=KEY).status_code == 200
        yield client


@cache
def operations() -> list[tuple[str, str]]:
    """(method, path) of every route; the document is the same for every home."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder, serving(Path(folder)) as client:
        paths = client.get("/openapi.json").json()["paths"]
    return [(method, path) for path, methods in paths.items() for method in methods]


@st.composite
def requests(draw: st.DrawFn, operation: dict[str, Any], document: dict[str, Any], path: str) -> dict[str, Any]:
    """What to send: an address, a query and a body."""
    query = []
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        value = draw(st.one_of(KNOWN.get(name, NASTY), nearly(parameter["schema"], document, KNOWN), NASTY))
        text = value if isinstance(value, str) else json.dumps(value)
        if parameter["in"] == "path":
            path = path.replace(f"{{{name}}}", quote(text.encode(errors="surrogatepass"), safe=draw(SAFE)))
        elif parameter.get("required") or draw(st.booleans()):
            query.append(f"{name}={quote(text.encode(errors='surrogatepass'))}")
    sent: dict[str, Any] = {"url": path + ("?" + "&".join(query) if query else "")}
    # what a client makes of dots and empty parts before it sends them is another address
    sent["exact"] = not {"", ".", ".."} & set(path.split("/")[1:])
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        body = draw(nearly(schema, document, KNOWN))
        if isinstance(body, dict) and draw(st.booleans()):
            body = {**body, **{k: v for k, v in STATED.items() if k in body}}
        if isinstance(body, dict) and "command" in body:
            body["command"] = draw(COMMANDS)
        sent["content"] = json.dumps(body).encode(errors="surrogatepass")
        sent["headers"] = {"Content-Type": draw(st.sampled_from(["application/json"] * 5 + ["text/plain"]))}
    return sent


SAFE = st.sampled_from(["", "/"])
# what a research job is asked to run may be run
COMMANDS = st.sampled_from([["true"], ["no-such-program"], [], [""], ["true\0"], "true"])


@pytest.mark.parametrize(("method", "path"), operations())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_request_makes_it_answer_500(api: TestClient, method: str, path: str, data: st.DataObject):
    document = api.get("/openapi.json").json()
    operation = document["paths"][path][method]
    sent = data.draw(requests(operation, document, path))
    exact = sent.pop("exact")
    answer = api.request(method, sent.pop("url"), **{**sent, "headers": {**KEY, **sent.get("headers", {})}})
    assert answer.status_code != 500, answer.text
    assert "Traceback" not in answer.text
    if not answer.is_success:
        assert error_of(answer, answer.status_code)["message"]
        return
    described = operation["responses"].get(str(answer.status_code), {}).get("content", {}).get("application/json", {})
    if exact and described.get("schema"):
        jsonschema.validate(answer.json(), {**described["schema"], "components": document["components"]})


@settings(max_examples=60, deadline=None)
@given(path=st.lists(NASTY | st.text(max_size=8), max_size=4), method=st.sampled_from(["GET", "PUT", "POST", "PATCH"]))
def test_no_address_makes_it_answer_500(api: TestClient, path: list[str], method: str):
    address = "/v1/" + "/".join(quote(part.encode(errors="surrogatepass"), safe="") for part in path)
    answer = api.request(method, address, headers=KEY)
    assert answer.status_code != 500, answer.text
    if not answer.is_success:
        error_of(answer, answer.status_code)


@settings(max_examples=60, deadline=None)
@given(value=st.text(st.characters(codec="latin-1"), max_size=60) | ANYTHING.map(str))
def test_no_key_makes_it_answer_500(api: TestClient, value: str):
    headers = [("Authorization", value.encode("latin-1", errors="replace").replace(b"\r", b"").replace(b"\n", b""))]
    answer = api.get("/v1/endpoints", headers=headers)  # type: ignore[arg-type]
    assert error_of(answer, 401)["code"] == "unauthorized"
