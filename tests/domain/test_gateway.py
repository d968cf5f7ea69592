"""Routes and keys as values: who is served by what, and how a change reads."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import (
    KeyRecord,
    Route,
    RouteTarget,
    deployment_id,
    litellm_deployments,
    promote,
    rolled_back,
    serving_targets,
    with_targets,
    with_weights,
)
from modelops_dagster.domain.route_changes import route_diff

AT = datetime(2026, 1, 2, tzinfo=UTC)


def target(name: str, weight: int = 1, *tags: str) -> RouteTarget:
    return RouteTarget(
        endpoint=name,
        url=f"http://127.0.0.1:1/{name}/v1",
        served_model_name="acme/tiny",
        commit_hash="0123456789abcdef" * 2 + "01234567",
        weight=weight,
        tags=tags,
    )


def route(*targets: RouteTarget, alias: str = "acme/tiny") -> Route:
    return with_targets(None, alias, targets, at=AT)


def names(targets: tuple[RouteTarget, ...]) -> list[str]:
    return [t.endpoint for t in targets]


def test_a_key_with_a_tag_sees_the_target_of_that_tag_and_nobody_sees_a_shadow() -> None:
    both = route(target("stable"), target("new", 1, "preview"), target("dark", 9, "shadow"))
    assert names(serving_targets(both, ())) == ["stable"]
    assert names(serving_targets(both, ("preview",))) == ["new"]
    assert names(serving_targets(both, ("shadow",))) == ["stable"]
    assert serving_targets(route(target("new", 1, "preview")), ()) == ()
    assert serving_targets(route(target("dark", 1, "shadow")), ("shadow", "preview")) == ()


def test_a_target_of_weight_zero_serves_nobody() -> None:
    assert names(serving_targets(route(target("a", 0), target("b", 3)), ())) == ["b"]


def test_what_cannot_be_reached_is_not_told_to_litellm() -> None:
    shown = litellm_deployments(
        route(target("a", 95), target("b", 5, "preview"), target("c", 1, "shadow"), target("d", 0))
    )
    assert [d["model_info"]["id"] for d in shown] == ["a@0123456789ab:acme/tiny", "b@0123456789ab:acme/tiny"]
    assert [d["litellm_params"]["weight"] for d in shown] == [95, 5]
    assert [d["litellm_params"]["tags"] for d in shown] == [["default"], ["preview"]]
    assert {d["model_name"] for d in shown} == {"acme/tiny"}
    assert shown[0]["litellm_params"]["model"] == "hosted_vllm/acme/tiny"
    assert shown[0]["litellm_params"]["input_cost_per_token"] == 0.0


def test_one_endpoint_behind_two_aliases_has_two_router_ids() -> None:
    one, two = (litellm_deployments(route(target("a"), alias=alias))[0] for alias in ("acme/tiny", "smart-default"))
    assert one["model_info"]["id"] != two["model_info"]["id"]
    assert deployment_id(target("a")) == "a@0123456789ab"


def test_weights_promotion_and_roll_back_are_new_routes_on_the_same_version() -> None:
    start = route(target("a", 95), target("b", 5)).model_copy(update={"version": 4, "verdict_id": "v1"})
    half = with_weights(start, {"b": 95}, at=AT)
    assert [t.weight for t in half.targets] == [95, 95]
    raised = promote(start, "b", at=AT)
    assert {t.endpoint: t.weight for t in raised.targets} == {"a": 0, "b": 100}
    back = rolled_back(raised, start, at=AT)
    assert back.targets == start.targets
    assert {r.version for r in (half, raised, back)} == {4}
    assert back.verdict_id == "v1"


@pytest.mark.parametrize("weights", [{"c": 1}, {"a": 0, "b": 0}, {"a": -1}])
def test_weights_that_do_not_hold_are_refused(weights: dict[str, int]) -> None:
    with pytest.raises(InvalidSpec):
        with_weights(route(target("a"), target("b")), weights, at=AT)


def test_a_diff_reads_line_by_line_and_is_empty_when_nothing_changed() -> None:
    old = route(target("a", 95), target("b", 5))
    new = route(target("a", 50), target("c", 50, "preview"))
    assert route_diff(old, old) == []
    assert route_diff(old, new) == [
        "- b@0123456789ab: weight 5, for everybody",
        "~ a@0123456789ab: weight 95 -> 50",
        "+ c@0123456789ab: weight 50, for preview",
    ]
    assert route_diff(None, new)[0] == "new route acme/tiny"
    assert route_diff(old, None)[-1] == "no route acme/tiny any more"
    assert route_diff(None, None) == []


@pytest.mark.parametrize("alias", ["a/b/c", "../x", "a/..", "", "/a", "a b", "a" * 200, "a/", "x@y"])
def test_an_alias_that_is_none_is_refused(alias: str) -> None:
    with pytest.raises(ValidationError):
        route(target("a"), alias=alias)


def test_a_route_names_an_endpoint_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        route(target("a"), target("a", 2))


@pytest.mark.parametrize("tags", [("shadow",), ("default",), ("!default",), ("&preview",), ("",), ("Preview",)])
def test_a_key_cannot_carry_a_reserved_or_a_steering_tag(tags: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        KeyRecord(key_id="1" * 16, key_sha256="1" * 64, alias="me", tags=tags, created_at=AT)
