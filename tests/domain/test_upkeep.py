"""Who holds a lease on an endpoint, and which preview is dead."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import CanaryWatch, Retiring, Route, RouteTarget, Swap, with_targets
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import endpoint_name
from modelops_dagster.domain.upkeep import (
    UpkeepPolicy,
    dead_previews,
    made_by_run,
    named_in,
    unleased,
    without_dead,
)

NOW = datetime(2026, 1, 9, tzinfo=UTC)
COMMIT = "c" * 40
REVISION = ModelRevision(repo_id="acme/one", commit_hash=COMMIT)
OURS = endpoint_name(REVISION, "raw")
POLICY = UpkeepPolicy(dead_after_s=600, idle_after_s=3600, forget_after_s=86_400)


def status(
    name: str = OURS,
    state: EndpointState = EndpointState.RUNNING,
    *,
    desired: str = "Running",
    hours: float = 2,
    model: str | None = f"acme/one@{COMMIT}",
) -> EndpointStatus:
    spec = EndpointSpec(
        name=name, model=model, checkpoint="/c", checkpoint_digest="d", engine="fake", served_model_name="m"
    )
    since = NOW - timedelta(hours=hours)
    return EndpointStatus.model_validate({"spec": spec, "desired": desired, "state": state, "since": since})


def target(name: str, *tags: str, weight: int = 1, provider: str | None = None) -> RouteTarget:
    return RouteTarget(
        endpoint=name, url="http://h:1/v1", served_model_name="m", commit_hash="c", tags=tags, weight=weight,
        provider=provider,
    )  # fmt: skip


def route(*targets: RouteTarget) -> Route:
    return with_targets(None, "acme/one", targets, at=NOW)


def todo(seen: EndpointStatus, **holders: Any) -> str | None:
    given = {"in_routes": set(), "busy": set(), "on_hold": set(), **holders}
    return unleased(seen, **given, now=NOW, policy=POLICY)


def test_what_a_run_made_says_so_by_its_name():
    made = made_by_run(status().spec)
    assert made is not None
    assert (made.lane, made.revision) == ("raw", REVISION)
    assert made_by_run(status(name="mine").spec) is None
    assert made_by_run(status(model=None).spec) is None
    assert made_by_run(status(model="acme/one@ccccccc").spec) is None


def test_an_endpoint_without_a_lease_is_stopped_and_much_later_deleted():
    assert todo(status()) == "stop"
    assert todo(status(hours=0.5)) is None
    assert todo(status(state=EndpointState.STOPPED, desired="Stopped")) is None
    assert todo(status(state=EndpointState.STOPPED, desired="Stopped", hours=25)) == "delete"
    assert todo(status(state=EndpointState.DEPLOY_FAILED, hours=25)) == "delete"
    assert todo(status(desired="Stopped")) is None, "somebody stops it already"


@pytest.mark.parametrize("holder", ["in_routes", "on_hold"])
def test_a_route_and_a_hold_keep_it(holder: str):
    assert todo(status(hours=9999), **{holder: {OURS}}) is None


def test_a_run_on_its_model_keeps_it():
    assert todo(status(hours=9999), busy={"acme/one"}) is None
    assert todo(status(hours=9999), busy={"acme/two"}) == "stop"


def test_what_a_person_made_is_never_touched():
    for state in EndpointState:
        assert todo(status(name="mine", state=state, hours=9999)) is None


def test_every_way_a_route_names_an_endpoint_counts():
    named = route(target("a"), target("b", weight=0)).model_copy(
        update={
            "canary": CanaryWatch(endpoint="c", since=NOW, bounds=Bounds()),
            "swap": Swap(to="d", step_since=NOW),
            "retiring": (Retiring(endpoint="e", stop_at=NOW),),
        }
    )
    assert named_in([named]) == {"a", "b", "c", "d", "e"}


def dead(of: Route, *statuses: EndpointStatus, **gone: float) -> dict[str, str]:
    since = {name: NOW - timedelta(minutes=minutes) for name, minutes in gone.items()}
    return dead_previews(of, {s.spec.name: s for s in statuses}, since, NOW, POLICY)


def test_a_preview_is_dead_when_it_has_been_failed_or_gone_long_enough():
    of = route(target("xx", "preview"))
    assert "RuntimeError since" in dead(of, status("xx", EndpointState.RUNTIME_ERROR))["xx"]
    assert dead(of, status("xx", EndpointState.RUNTIME_ERROR, hours=0.1)) == {}
    assert "is gone since" in dead(of, xx=11)["xx"]
    assert dead(of, xx=9) == {}
    assert dead(of) == {}
    for state in (EndpointState.RUNNING, EndpointState.SLEEPING, EndpointState.STOPPED, EndpointState.STARTUP):
        assert dead(of, status("xx", state)) == {}


def test_only_previews_of_ours_are_withdrawn():
    failed = status("xx", EndpointState.RUNTIME_ERROR)
    assert dead(route(target("xx")), failed) == {}
    assert dead(route(target("xx", "preview", provider="openai")), failed) == {}


def test_what_else_stands_behind_the_alias_stays():
    of = route(target("xx", "preview"), target("yy", "preview"), target("zz", "preview", weight=0))
    left = without_dead(of, {"xx": "is gone"}, NOW)
    assert left is not None
    assert [t.endpoint for t in left.targets] == ["yy", "zz"]
    assert left.reason == "xx is gone"
    assert without_dead(of, {"xx": "is gone", "yy": "is gone"}, NOW) is None
