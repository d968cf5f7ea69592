"""Where a route's target answers: what the controller says of it goes before its document."""

from datetime import UTC, datetime

import pytest

from modelops_dagster.clients.endpoints import LiveEndpoint
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.gateway import RouteTarget, litellm_deployments, with_targets
from modelops_dagster.services.gateway.calls import Call
from modelops_dagster.services.gateway.traffic import SharedCounts, Traffic
from modelops_dagster.services.gateway.whereabouts import addresses, as_specified, on_duty, replicas_of, wakes

AT = datetime(2026, 1, 2, tzinfo=UTC)
ONE, TWO = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
TARGET = RouteTarget(endpoint="small", url="http://127.0.0.1:9/v1", served_model_name="m", commit_hash="c" * 40)
ROUTE = with_targets(None, "acme/tiny", [TARGET], at=AT)


def live(*urls: str, served: str = "m", asleep: bool = False) -> dict[str, LiveEndpoint]:
    state = EndpointState.SLEEPING if asleep else EndpointState.RUNNING
    known = LiveEndpoint(name="small", served_model_name=served, state=state, since=AT, urls=urls, wakes=asleep)
    return {"small": known}


def deployments(table: dict[str, LiveEndpoint]) -> list[dict[str, object]]:
    return replicas_of(litellm_deployments(ROUTE)[0], TARGET, table)


@pytest.mark.parametrize(
    ("table", "found", "asleep"),
    [
        ({}, (TARGET.url,), False),
        (live(ONE, TWO), (ONE, TWO), False),
        (live(ONE, served="another"), (TARGET.url,), False),
        (live(asleep=True), (), True),
        (live(), (), False),
    ],
)
def test_where_a_target_answers(table: dict[str, LiveEndpoint], found: tuple[str, ...], asleep: bool):
    assert addresses(TARGET, table) == found
    assert wakes(TARGET, table) is asleep
    bases = [d["litellm_params"]["api_base"] for d in deployments(table)]  # type: ignore[index]
    assert bases == list(found or (TARGET.url,)), "the Router always knows the alias"
    assert [len(on_duty(deployments(table)).get(f"small@{'c' * 12}:acme/tiny", []))] == [len(found)]


def test_a_hosted_model_is_where_its_document_says():
    hosted = TARGET.model_copy(update={"provider": "openai"})
    assert addresses(hosted, live(ONE)) == (TARGET.url,)


def test_price_and_longest_attempt_are_those_of_the_spec_now():
    table = {"small": live(ONE, TWO)["small"].model_copy(update={"usd_per_hour": 2.0, "request_timeout_s": 30.0})}
    (target,) = as_specified(ROUTE, table).targets
    assert (target.usd_per_hour, target.timeout_s) == (4.0, 30.0), "two replicas cost twice as much"
    (params,) = (d["litellm_params"] for d in litellm_deployments(as_specified(ROUTE, table)))
    assert (params["timeout"], params["stream_timeout"]) == (30.0, 30.0)
    own = ROUTE.model_copy(update={"timeout_s": 5.0})
    assert litellm_deployments(as_specified(own, table))[0]["litellm_params"]["timeout"] == 5.0


def test_a_spec_without_a_price_leaves_the_routes_and_one_without_a_timeout_ends_it():
    given = with_targets(None, "acme/tiny", [TARGET.model_copy(update={"usd_per_hour": 3.0, "timeout_s": 9.0})], at=AT)
    (target,) = as_specified(given, live(ONE)).targets
    assert (target.usd_per_hour, target.timeout_s) == (3.0, None)
    for unknown in ({}, live(ONE, served="another")):
        assert as_specified(given, unknown) is given


def test_the_least_busy_replica_answers_and_a_failed_one_is_not_asked_again():
    traffic = Traffic(SharedCounts(1), 0)
    replicas = deployments(live(ONE, TWO))
    asked: dict[str, int] = {ONE: 0, TWO: 0}
    for number in range(10):
        call = Call(str(number), "/v1/chat/completions", traffic=traffic)
        url = call.least_busy(replicas)["litellm_params"]["api_base"]
        call.enter(TARGET, url)
        asked[url] += 1
    assert asked == {ONE: 5, TWO: 5}, "all ten are under way"
    call.end()
    assert traffic.under_way(url) == 4
