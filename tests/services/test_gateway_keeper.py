"""The gateway's watchman: it rolls a bad canary back and says so, moves swaps on, and stops what nothing uses."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.trials import Attempt, TrialStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.errors import NotRunning
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, Swap, with_targets
from modelops_dagster.domain.rollout import start_canary, start_swap
from modelops_dagster.services.gateway.keeper import Keeper

AT = datetime(2026, 1, 2, tzinfo=UTC)
ALIAS = "acme/tiny"


def target(name: str) -> RouteTarget:
    grant = Grant(verdict_id="v", at=AT)
    return RouteTarget(
        endpoint=name, url="http://127.0.0.1:1/v1", served_model_name="m", commit_hash="c" * 40, grant=grant
    )


class World:
    """Stores on disk, a clock, and a controller that notes what it is asked."""

    def __init__(self, home: Path) -> None:
        self.routes, self.trials = RouteStore(home / "gateway"), TrialStore(home / "gateway/trials.sqlite")
        self.outbox = Outbox(home / "alerts")
        self.now, self.said, self.stopped, self.absent = AT, list[str](), list[str](), False
        self.keeper = Keeper(
            self.routes,
            self.trials,
            self.outbox,
            self.controller,
            complain=self.said.append,
            now=lambda: self.now,
        )

    def controller(self) -> Any:
        if self.absent:
            raise NotRunning("the controller does not answer.")
        return self

    def stop(self, name: str) -> None:
        self.stopped.append(name)

    def put(self, route: Route) -> None:
        old = self.routes.get(ALIAS)
        self.routes.put(route, old.version if old else 0)

    def weights(self) -> dict[str, int]:
        return {t.endpoint: t.weight for t in self.route.targets}

    @property
    def route(self) -> Route:
        found = self.routes.get(ALIAS)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def stable() -> Route:
    return with_targets(None, ALIAS, [target("stable")], at=AT)


def test_a_canary_that_fails_is_rolled_back_and_told_once(world: World) -> None:
    world.put(start_canary(stable(), target("new"), 5, Bounds(), at=AT))
    trial = world.route.canary
    assert trial is not None
    world.trials.add([Attempt(trial.trial_id, "stable", 0.2)] * 200 + [Attempt(trial.trial_id, "new", 0.2)] * 30)
    world.keeper.look()
    assert world.weights() == {"stable": 9500, "new": 500}, "as good as the other one"
    world.trials.add([Attempt(trial.trial_id, "new", None)] * 25)
    world.keeper.look()
    world.keeper.look()
    assert world.weights() == {"stable": 9500, "new": 0}
    assert world.route.canary is None
    assert "25 of 55 calls failed" in world.route.reason
    (delivery,) = world.outbox.recent(AT)
    assert (delivery.alert.kind, delivery.alert.subject) == ("canary", ALIAS)
    assert "25 of 55 calls failed" in " ".join(delivery.alert.lines)
    assert world.routes.history(ALIAS)[-1].version == 2, "one change and no more"


def test_calls_of_an_earlier_trial_do_not_count(world: World) -> None:
    world.put(start_canary(stable(), target("new"), 5, Bounds(), at=AT))
    world.trials.add([Attempt(f"new@{(AT - timedelta(days=1)).isoformat()}", "new", None)] * 50)
    world.keeper.look()
    assert world.route.canary is not None


def test_a_swap_goes_on_by_itself_and_the_old_endpoint_is_stopped_in_the_end(world: World) -> None:
    plan = Swap(to="fp8", step_since=AT, hold_s=60, retain_s=3600)
    world.put(start_swap(stable(), target("fp8"), plan, Bounds(), at=AT))
    shares = []
    for _ in range(5):
        world.keeper.look()
        shares.append(world.weights()["fp8"])
        world.now += timedelta(seconds=61)
    assert shares == [500, 5000, 10000, 10000, 10000]
    assert world.route.swap is None
    assert world.stopped == []
    world.now += timedelta(hours=1)
    world.absent = True
    world.keeper.look()
    assert world.weights() == {"stable": 0, "fp8": 10000}
    assert "could not be looked after" in world.said[-1]
    world.absent = False
    world.keeper.look()
    assert world.stopped == ["stable"]
    assert world.weights() == {"fp8": 10000}


def test_a_swap_that_turns_bad_at_its_last_step_gives_everything_back(world: World) -> None:
    plan = Swap(to="fp8", steps=(50, 100), step_since=AT, hold_s=0)
    world.put(start_swap(stable(), target("fp8"), plan, Bounds(), at=AT))
    trial = world.route.canary
    assert trial is not None
    world.trials.add([Attempt(trial.trial_id, "stable", 0.2)] * 100)
    world.keeper.look()
    assert world.weights() == {"stable": 0, "fp8": 10000}
    world.trials.add([Attempt(trial.trial_id, "fp8", None)] * 30)
    world.keeper.look()
    assert world.weights() == {"stable": 1, "fp8": 0}
    assert (world.route.swap, world.route.retiring, world.stopped) == (None, (), [])


def test_a_document_that_breaks_does_not_keep_the_others_from_being_looked_at(world: World) -> None:
    world.put(start_swap(stable(), target("fp8"), Swap(to="fp8", step_since=AT, hold_s=0), Bounds(), at=AT))
    (world.routes.routes / "aaa.json").write_text("{")
    world.keeper.look()
    assert world.weights()["fp8"] == 5000
    assert "'aaa'" in world.said[0]


def test_trials_that_are_over_are_forgotten(world: World) -> None:
    world.put(start_canary(stable(), target("new"), 5, Bounds(), at=AT))
    trial = world.route.canary
    assert trial is not None
    world.trials.add([Attempt("an-old-one", "x", 0.1), Attempt(trial.trial_id, "new", None)])
    world.keeper.look()
    assert world.trials.outcomes("an-old-one") == {}
    assert world.trials.outcomes(trial.trial_id)["new"].failed == 1
