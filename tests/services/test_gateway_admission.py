"""What the gate lets through and what a client is told, without a gateway running."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from modelops_dagster.domain.gateway import KeyRecord, RouteTarget, with_targets
from modelops_dagster.services.gateway.admission import Admission, Refusal, admit, steering_fields, visible_aliases
from modelops_dagster.services.gateway.answers import shown_chunk, shown_error, shown_headers

AT = datetime(2026, 1, 2, tzinfo=UTC)
FORBIDDEN = steering_fields(["fallbacks", "api_base", "metadata", "tags", "mock_response"])


def key(*tags: str, models: tuple[str, ...] = ()) -> KeyRecord:
    return KeyRecord(key_id="1" * 16, key_sha256="1" * 64, alias="me", tags=tags, models=models, created_at=AT)


def target(name: str, *tags: str) -> RouteTarget:
    return RouteTarget(
        endpoint=name, url="http://10.0.0.7:8000/v1", served_model_name="m", commit_hash="c" * 40, tags=tags
    )


ROUTES = {
    "acme/open": with_targets(None, "acme/open", [target("a"), target("b", "preview")], at=AT),
    "acme/new": with_targets(None, "acme/new", [target("b", "preview")], at=AT),
    "acme/dark": with_targets(None, "acme/dark", [target("c", "shadow")], at=AT),
}


def ask(who: KeyRecord, header_tags: tuple[str, ...] = (), **body: Any) -> Admission | Refusal:
    return admit(who, ROUTES, body, header_tags, FORBIDDEN)


def code(outcome: Admission | Refusal) -> tuple[int, str]:
    assert isinstance(outcome, Refusal)
    return outcome.status, outcome.code


def test_a_call_is_granted_the_targets_of_its_key() -> None:
    granted = ask(key(), model="acme/open", stream=True)
    assert isinstance(granted, Admission)
    assert ([t.endpoint for t in granted.targets], granted.stream) == (["a"], True)
    preview = ask(key("preview"), ("preview",), model="acme/open", tags=["preview"], metadata={"tags": ["preview"]})
    assert isinstance(preview, Admission)
    assert [t.endpoint for t in preview.targets] == ["b"]


def test_what_the_key_may_not_do_is_403_and_what_is_not_there_404() -> None:
    assert code(ask(key(), model="acme/new")) == (403, "model_not_allowed")
    assert code(ask(key("preview"), model="acme/dark")) == (403, "model_not_allowed")
    assert code(ask(key(models=("acme/new",)), model="acme/open")) == (403, "model_not_allowed")
    assert code(ask(key(models=("acme/new",)), model="nowhere")) == (403, "model_not_allowed")
    assert code(ask(key(), model="nowhere")) == (404, "model_not_found")


@pytest.mark.parametrize("tag", ["preview", "!default", "&preview", "shadow"])
@pytest.mark.parametrize("place", ["header", "body", "metadata"])
def test_a_tag_the_key_lacks_is_403_wherever_it_is_asked_for(tag: str, place: str) -> None:
    header = (tag,) if place == "header" else ()
    body: dict[str, Any] = {"body": {"tags": [tag]}, "metadata": {"metadata": {"tags": [tag]}}}.get(place, {})
    assert code(ask(key("team-a"), header, model="acme/open", **body)) == (403, "tag_not_allowed")


@pytest.mark.parametrize(
    "body",
    [
        {"fallbacks": ["acme/new"]},
        {"api_base": "http://evil"},
        {"mock_response": "x"},
        {"mock_anything": 1},
        {"_router_weights": {}},
        {"litellm_metadata": {"tags": ["preview"]}},
        {"specific_deployment": True},
        {"router_settings_override": {}},
        {"extra_headers": {}},
        {"metadata": '{"tags": ["preview"]}'},
        {"tags": "preview"},
        {"metadata": {"tags": [1]}},
    ],
)
def test_a_body_that_would_steer_the_router_is_refused(body: dict[str, Any]) -> None:
    assert code(ask(key(), model="acme/open", **body))[0] == 400


@pytest.mark.parametrize("body", [None, [], "x", {}, {"model": ""}, {"model": 3}, {"model": ["acme/open"]}])
def test_a_body_that_names_no_model_is_400(body: object) -> None:
    assert code(admit(key(), ROUTES, body, (), FORBIDDEN))[0] == 400


def test_a_key_sees_the_aliases_it_may_call() -> None:
    assert visible_aliases(key(), ROUTES) == ["acme/open"]
    assert visible_aliases(key("preview"), ROUTES) == ["acme/new", "acme/open"]
    assert visible_aliases(key("preview", models=("acme/new",)), ROUTES) == ["acme/new"]


def test_headers_that_tell_about_the_inside_are_taken_out() -> None:
    told = [
        (b"content-type", b"application/json"),
        (b"x-litellm-model-api-base", b"http://10.0.0.7:8000/v1"),
        (b"llm_provider-server", b"uvicorn"),
        (b"X-LiteLLM-Version", b"1"),
        (b"x-litellm-model-id", b"a@123456789012:acme/open"),
    ]
    assert shown_headers(told) == [
        (b"content-type", b"application/json"),
        (b"x-litellm-model-id", b"a@123456789012"),
    ]


def error(status: int, message: str) -> tuple[int, str, str]:
    body = json.dumps({"error": {"message": message, "code": str(status)}}).encode()
    return shown_error(status, body, alias="acme/open", addresses={"10.0.0.7:8000": "a"})


def test_an_error_keeps_what_the_client_needs_and_loses_the_address() -> None:
    said = 'litellm.BadRequestError: Hosted_vllmException - {"error": {"message": "too long for 10.0.0.7:8000"}}'
    assert error(400, f"{said}\n\nLiteLLM: model group 'x' failed.")[2] == "too long for a"
    assert error(404, "NotFound at http://REDACTED:8000/v1")[2] == "NotFound at http://a/v1"
    assert error(500, "cannot connect to 10.0.0.7:8000")[:3] == (
        502,
        "endpoint_failed",
        "The endpoint behind 'acme/open' failed; try again in a moment.",
    )
    assert error(429, "No deployments available for selected model")[:2] == (503, "no_endpoint")
    assert error(408, "Timeout")[:2] == (504, "endpoint_timeout")
    assert error(429, "engine queue is full")[0] == 429
    assert shown_error(500, b"<html>", alias="x", addresses={}).status == 502
    assert shown_error(400, b"", alias="x", addresses={}).message


@pytest.mark.parametrize(
    "chunk", [b'data: {"error": {"message": "10.0.0.7"}}\n\n', b'event: error\ndata: {"x": 1}\n\n']
)
def test_an_error_in_the_middle_of_a_stream_is_reworded_too(chunk: bytes) -> None:
    shown = shown_chunk(chunk, alias="acme/open", addresses={})
    assert b"10.0.0.7" not in shown
    assert b"failed; try again" in shown
    assert shown.endswith(b"\n\n")
    words = b'data: {"choices": [{"delta": {"content": "error"}}]}\n\n'
    assert shown_chunk(words, alias="acme/open", addresses={}) is words
