"""Moving an alias: canary, blue-green, swap in steps, and who is entitled to answer."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, Swap, rolled_back, with_targets
from modelops_dagster.domain.rollout import (
    advance,
    due_to_stop,
    end_canary,
    require_grants,
    retired,
    serving_tags,
    split,
    start_canary,
    start_swap,
)
from modelops_dagster.domain.route_changes import route_diff

AT = datetime(2026, 1, 2, tzinfo=UTC)
GRANT = Grant(verdict_id="v1", at=AT)


def target(name: str, weight: int = 1, *tags: str, grant: Grant | None = GRANT) -> RouteTarget:
    url = f"http://127.0.0.1:1/{name}/v1"
    return RouteTarget(
        endpoint=name, url=url, served_model_name="m", commit_hash="c" * 40, weight=weight, tags=tags, grant=grant
    )


def route(*targets: RouteTarget) -> Route:
    return with_targets(None, "acme/tiny", targets, at=AT).model_copy(update={"version": 3, "sticky": True})


def shares(found: Route | None) -> dict[str, int]:
    assert found is not None
    total = sum(t.weight for t in found.targets)
    return {t.endpoint: round(100 * t.weight / total) for t in found.targets}


def test_a_canary_takes_its_share_and_leaves_the_proportions() -> None:
    begun = start_canary(route(target("a", 3), target("b", 1)), target("new"), 20, Bounds(), at=AT)
    assert shares(begun) == {"a": 60, "b": 20, "new": 20}
    assert begun.canary is not None
    assert (begun.canary.endpoint, begun.version, begun.sticky) == ("new", 3, True)
    more = start_canary(begun, target("new"), 50, Bounds(), at=AT + timedelta(hours=1))
    assert more.canary == begun.canary, "a larger share goes on with the same trial"
    ended = end_canary(more, at=AT, reason="worse")
    assert shares(ended) == {"a": 75, "b": 25, "new": 0}
    assert (ended.canary, ended.reason) == (None, "worse")
    with pytest.raises(InvalidSpec, match="no canary"):
        end_canary(ended, at=AT, reason="again")


def test_promotion_is_one_change_and_so_is_the_way_back() -> None:
    blue = route(target("blue"), target("green", 0))
    green = split(blue, blue.targets[1], 100, at=AT, reason="promoted green")
    assert shares(green) == {"blue": 0, "green": 100}
    assert shares(rolled_back(green, blue, at=AT)) == {"blue": 100, "green": 0}
    with pytest.raises(InvalidSpec, match="nothing else serves"):
        split(route(target("only")), target("only"), 50, at=AT, reason="")
    with pytest.raises(InvalidSpec, match="no share"):
        split(blue, target("x"), 101, at=AT, reason="")


def test_a_roll_back_brings_the_settings_back_too() -> None:
    before = route(target("a"))
    after = before.model_copy(update={"sticky": False, "timeout_s": 5.0, "version": 4})
    assert rolled_back(after, before, at=AT).sticky is True
    assert route_diff(before, after) == ["~ sticky True -> False", "~ timeout_s None -> 5.0"]


def test_a_swap_goes_5_50_100_and_stops_the_old_endpoint_when_it_was_kept_long_enough() -> None:
    plan = Swap(to="fp8", step_since=AT, hold_s=600, retain_s=3600)
    now = start_swap(route(target("bf16", 1, "preview")), target("fp8", 1, "preview"), plan, Bounds(), at=AT)
    assert shares(now) == {"bf16": 95, "fp8": 5}
    assert advance(now, at=AT + timedelta(seconds=599)) is None
    at = AT
    for expected in (50, 100):
        at += timedelta(seconds=600)
        following = advance(now, at=at)
        assert following is not None
        assert shares(following)["fp8"] == expected
        assert following.canary == now.canary, "one trial over all steps"
        now = following
    assert due_to_stop(now, at=at + timedelta(days=9)) == (), "not while the last step is on trial"
    at += timedelta(seconds=600)
    done = advance(now, at=at)
    assert done is not None
    assert (done.swap, done.canary, done.verdict_id) == (None, None, "v1")
    assert due_to_stop(done, at=at + timedelta(seconds=3599)) == ()
    over = due_to_stop(done, at=at + timedelta(seconds=3600))
    assert over == ("bf16",)
    left = retired(done, over, at=at)
    assert ([t.endpoint for t in left.targets], left.retiring) == (["fp8"], ())
    assert advance(left, at=at) is None


@pytest.mark.parametrize("steps_done", [0, 1, 2])
def test_a_swap_that_is_worse_is_undone_at_every_step(steps_done: int) -> None:
    plan = Swap(to="fp8", step_since=AT, hold_s=0)
    now = start_swap(route(target("bf16")), target("fp8"), plan, Bounds(), at=AT)
    for _ in range(steps_done):
        following = advance(now, at=AT)
        assert following is not None
        now = following
    undone = end_canary(now, at=AT, reason="worse")
    assert shares(undone) == {"bf16": 100, "fp8": 0}
    assert (undone.swap, undone.retiring) == (None, ())


@pytest.mark.parametrize("steps", [(), (5, 50), (50, 5, 100), (5, 5, 100), (0, 100)])
def test_steps_that_do_not_rise_to_100_are_refused(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        Swap(to="x", steps=steps, step_since=AT)


def test_what_nothing_entitles_to_answer_does_not_begin_to() -> None:
    serving = route(target("a", grant=None))
    with pytest.raises(InvalidSpec, match="--override-reason"):
        require_grants(None, serving)
    require_grants(serving, serving)  # what served before may go on
    with pytest.raises(InvalidSpec, match="'b'"):
        require_grants(serving, route(target("a"), target("b", grant=None)))
    require_grants(serving, route(target("a"), target("b", 0, grant=None), target("c", 1, "shadow", grant=None)))
    require_grants(serving, route(target("b", grant=Grant(reason="a pilot", by="me", at=AT))))


@pytest.mark.parametrize("fields", [{}, {"reason": "why"}, {"verdict_id": "v", "reason": "why", "by": "me"}])
def test_a_grant_is_a_verdict_or_somebody_who_answers_for_it(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Grant(at=AT, **fields)


def test_a_canary_answers_the_callers_that_the_stable_one_answers() -> None:
    assert serving_tags(route(target("a", 9, "preview"), target("b", 1))) == ("preview",)
    assert serving_tags(route(target("dark", 9, "shadow"), target("b", 1))) == ()
