"""Endpoints of somebody else's: what a probe says of a server that is well, that refuses, and that is not there."""

import time
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.endpoints import ExternalBackend, Replica
from modelops_dagster.clients.endpoints.probing import Prober, health_url
from modelops_dagster.domain.endpoint_spec import ApiEndpoint, HealthCheck
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.lifecycle import Observation
from tests.fakes.openai_server import MODEL, Fault, OpenAIServer


def spec_of(url: str, **api: Any) -> EndpointSpec:
    given = {"url": url, "model_id": MODEL, **api}
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    return EndpointSpec.model_validate(
        {
            "name": "theirs",
            "deployment": {"type": "none"},
            "target": {"api_endpoint": given},
            "healthcheck": {"path": "/health", "port": port, "periodSeconds": 1, "timeoutSeconds": 2},
        }
    )


def backend(tmp_path: Path, **keys: str) -> ExternalBackend:
    return ExternalBackend(tmp_path / "logs", keys.get)


def launched(where: ExternalBackend, spec: EndpointSpec) -> Replica:
    return where.start(spec, where.prepare(spec, 1))


def seen(where: ExternalBackend, spec: EndpointSpec) -> Observation:
    return where.observe(spec, launched(where, spec), ask=True)


@pytest.mark.parametrize("path", ["", "/chat/completions", "/completions"])
def test_a_server_that_is_well_gives_one_token_once(tmp_path: Path, path: str):
    with OpenAIServer().in_thread() as server:
        where, spec = backend(tmp_path), spec_of(server.url + path)
        replica = launched(where, spec)
        assert replica.url == server.url
        assert replica.is_external
        assert where.observe(spec, replica, ask=False) == Observation(alive=True)
        assert where.observe(spec, replica, ask=True) == Observation(alive=True, ready=True)
        time.sleep(1.1)  # the period of its health check
        assert where.observe(spec, replica, ask=True).ready
        assert len(server.bodies) == 1
        assert server.bodies[0]["max_tokens"] == 1
        assert ("prompt" in server.bodies[0]) == (path == "/completions")
        assert "it answers" in Path(replica.log_path).read_text()
        where.end(replica)


def test_the_key_is_sent_and_never_written_down(tmp_path: Path):
    with OpenAIServer(api_key="sk-right").in_thread() as server:
        spec = spec_of(server.url, api_key_name="THEIR_API_KEY")
        assert seen(backend(tmp_path, THEIR_API_KEY="sk-right"), spec).ready
        wrong = seen(backend(tmp_path, THEIR_API_KEY="sk-wrong"), spec)
        assert (wrong.alive, "it refuses the key" in wrong.detail) == (False, True)
        with pytest.raises(InvalidSpec, match="There is no key THEIR_API_KEY: keep it with `modelops routes cred"):
            backend(tmp_path).prepare(spec, 1)
    written = "".join(p.read_text() for p in tmp_path.rglob("*.log"))
    assert "it refuses the key" in written
    assert "sk-" not in written


def test_a_model_that_is_not_there_is_refused(tmp_path: Path):
    with OpenAIServer().in_thread() as server:
        found = seen(backend(tmp_path), spec_of(server.url, model_id="other"))
    assert not found.alive
    assert found.detail == f"it has no model 'other', it has {MODEL}"


@pytest.mark.parametrize(
    ("fault", "alive", "ready"),
    [
        ("rate_limited", True, True),
        ("server_error", True, False),
        ("close", True, False),
        ("not_found", False, None),
        ("html", False, None),
        ("empty_choices", False, None),
    ],
)
def test_what_faults_mean(tmp_path: Path, fault: Fault, alive: bool, ready: bool | None):
    with OpenAIServer(fault=fault).in_thread() as server:
        found = seen(backend(tmp_path), spec_of(server.url))
    assert (found.alive, found.ready) == (alive, ready)
    assert bool(found.detail) == (ready is not True)


def test_one_that_is_not_there_is_waited_for(tmp_path: Path):
    with OpenAIServer().in_thread() as server:
        url = server.url
    found = seen(backend(tmp_path), spec_of(url))
    assert (found.alive, found.ready) == (True, False)
    assert f"{url} cannot be reached" in found.detail


def test_health_is_asked_where_the_check_says(tmp_path: Path):
    check = HealthCheck(path="/ready", port=9000)
    assert health_url("https://host/openai/v1", check) == "https://host:9000/ready"
    assert health_url("http://[::1]:8000/v1", check) == "http://[::1]:9000/ready"
    with OpenAIServer(offers=frozenset({"completions"})).in_thread() as server:
        api = ApiEndpoint(url=server.url, model_id=MODEL)
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        missing = Prober().probe(api, None, HealthCheck(path="/health", port=port), token=False)
        assert (missing.answers, "/health answered 404" in missing.detail) == (False, True)
        assert Prober().probe(api, None, None, token=True).answers
