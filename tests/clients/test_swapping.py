"""Day 2: what a copy's verdict does with the released weights' alias, from the first step to the stopped endpoint."""

from datetime import timedelta
from pathlib import Path

import pytest

from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.registration import apply_registration
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.swapping import apply_swap
from modelops_dagster.clients.trials import TrialStore
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import Grant, Route, with_targets
from modelops_dagster.domain.lanes import endpoint_name
from modelops_dagster.domain.policies import SwapRule
from modelops_dagster.domain.registration import SwapRecord
from modelops_dagster.domain.verdicts import Outcome, Verdict
from modelops_dagster.services.gateway.keeper import Keeper
from tests.clients.swap_verdicts import ALIAS, AT, COPY, OTHER, RAW, REVISION, endpoint, verdict

EARLIER = AT - timedelta(hours=1)


class FollowingGateway(GatewayClient):
    """A gateway that follows at once."""

    def running(self) -> bool:
        return True

    def visible(self, alias: str, version: int | None, timeout_s: float = 10) -> None:
        del alias, version, timeout_s


class Machine:
    """A controller whose endpoints all run."""

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def get(self, name: str) -> EndpointStatus:
        folder = f"/store/{ALIAS}/{'c' * 40}-FP8-aa"
        spec = EndpointSpec(
            name=name, checkpoint=folder, checkpoint_digest="sha256:0", engine="e", served_model_name="m"
        )
        url = "http://127.0.0.1:5/v1"
        return EndpointStatus(spec=spec, desired="Running", state=EndpointState.RUNNING, url=url, since=AT)

    def start(self, name: str) -> None:
        raise AssertionError(f"{name} runs already")

    def stop(self, name: str) -> None:
        self.stopped.append(name)

    def wait_ready(self, name: str, timeout_s: float) -> EndpointStatus:
        return self.get(name)

    def wait_stopped(self, name: str, timeout_s: float) -> None:
        assert name in self.stopped


class World:
    """Route documents with the released weights in service, a keeper, a clock, and a controller that takes notes."""

    def __init__(self, home: Path) -> None:
        self.routes, self.gateway = RouteStore(home / "gateway"), FollowingGateway("http://127.0.0.1:9")
        self.now, self.said = AT, list[str]()
        self.machine = Machine()
        self.stopped = self.machine.stopped
        self.keeper = Keeper(
            self.routes,
            TrialStore(home / "trials.sqlite"),
            Outbox(home / "alerts"),
            lambda: self.machine,  # type: ignore[arg-type, return-value]
            complain=self.said.append,
            now=lambda: self.now,
        )
        self.register("raw", verdict("raw", against="", at=EARLIER))

    def register(self, lane: str, found: Verdict, port: int = 1) -> tuple[str, ...]:
        """What the asset does: the swap, then the lane's own alias; returns the endpoints to stop."""
        done = apply_registration(self.routes, self.gateway, endpoint=endpoint(lane, port), verdict=found, at=self.now)
        return done.retired

    def swap(self, lane: str, found: Verdict, port: int = 1) -> SwapRecord:
        return apply_swap(
            self.routes, self.gateway, lambda: self.machine, endpoint=endpoint(lane, port), verdict=found, at=self.now
        )

    def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)
        self.keeper.look()

    @property
    def route(self) -> Route:
        found = self.routes.get(ALIAS)
        assert found is not None
        return found

    def weights(self) -> dict[str, int]:
        return {t.endpoint: t.weight for t in self.route.targets}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_copy_that_is_no_worse_takes_the_alias_over_and_the_old_endpoint_is_stopped_later(world: World) -> None:
    begun = world.swap("fp8", verdict())
    world.register("fp8", verdict())
    assert begun.reason == f"{COPY} takes the alias over, 5 -> 50 -> 100 %"
    assert world.weights() == {RAW: 9500, COPY: 500}
    assert [t.tags for t in world.route.targets] == [("preview",), ("preview",)]
    assert any(line.startswith(f"+ {COPY}@") for line in begun.diff), begun.diff
    shares = []
    for _ in range(3):
        world.pass_by(seconds=61)
        shares.append(world.weights()[COPY])
    assert shares == [5000, 10000, 10000]
    assert (world.route.swap, world.stopped) == (None, [])
    world.pass_by(hours=2)
    assert (world.stopped, world.weights()) == ([RAW], {COPY: 10000})
    own = world.routes.get(f"{ALIAS}:fp8")
    assert own is not None
    assert [t.endpoint for t in own.targets] == [COPY], "its own name stays"
    assert [r.reason for r in world.routes.history(ALIAS)][-1] == f"stopped {RAW}"


def test_the_same_verdicts_change_nothing_at_any_step(world: World) -> None:
    world.swap("fp8", verdict())
    for time in ({"seconds": 0}, {"seconds": 61}, {"seconds": 61}, {"seconds": 61}, {"hours": 2}):
        world.pass_by(**time)
        before = world.route
        again = world.swap("fp8", verdict())
        assert (again.diff, again.reason) == ((), f"{COPY} answers under the alias already")
        assert world.register("raw", verdict("raw", against="", at=EARLIER)) in ((), (RAW,))
        assert world.route == before


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (verdict(swap=SwapRule()), "policy p swaps nothing"),
        (verdict(outcome="hold"), "the verdict is hold"),
        (verdict(against=""), "it was not compared with the released weights"),
        (verdict(against=OTHER), "it was not compared with the released weights"),
        (verdict(low=None), "it is not known to be no worse"),
        (verdict(low=-0.06), "it is not known to be no worse"),
    ],
)
def test_what_is_not_shown_to_be_as_good_leaves_the_alias_alone(world: World, found: Verdict, why: str) -> None:
    before = world.route
    done = world.swap("fp8", found)
    assert why in done.reason
    assert (world.route, done.diff, done.route_version) == (before, (), before.version)


def test_a_second_copy_waits_for_the_first_and_does_not_take_over_from_it(world: World) -> None:
    world.swap("fp8", verdict())
    assert world.swap("awq", verdict("awq")).reason == f"a swap to {COPY} is under way"
    for _ in range(3):
        world.pass_by(seconds=61)
    done = world.swap("awq", verdict("awq", against=COPY))
    assert done.reason == f"the alias is not served by the released weights of this revision but by {COPY}"
    assert OTHER not in world.weights()


def test_without_a_route_of_the_released_weights_there_is_nothing_to_take_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.routes.delete(ALIAS, world.route.version)
    done = world.swap("fp8", verdict())
    assert (done.route_version, world.routes.get(ALIAS)) == (None, None)
    assert "not served by the released weights" in done.reason


def test_a_copy_that_was_taken_back_is_not_tried_again_by_the_same_verdict_but_by_a_new_one(world: World) -> None:
    world.swap("fp8", verdict())
    kept = [t.model_copy(update={"weight": 0 if t.endpoint == COPY else 1}) for t in world.route.targets]
    world.routes.put(
        with_targets(world.route, ALIAS, kept, at=AT, reason="canary rolled back, 9 of 20 calls failed"),
        world.route.version,
    )
    assert "9 of 20 calls failed" in world.swap("fp8", verdict()).reason
    assert world.weights()[COPY] == 0
    assert world.swap("fp8", verdict(at=AT + timedelta(hours=1))).diff
    assert world.weights()[COPY] == 500


def test_a_copy_that_moved_is_followed_in_the_middle_of_a_swap(world: World) -> None:
    world.swap("fp8", verdict())
    step = world.route.swap
    done = world.swap("fp8", verdict(at=AT + timedelta(hours=1)), port=7)
    assert "url http://127.0.0.1:1/v1 -> http://127.0.0.1:7/v1" in done.diff[0]
    assert (world.weights(), world.route.swap) == ({RAW: 9500, COPY: 500}, step)


def test_a_hold_beside_a_swap_does_not_stop_it(world: World) -> None:
    world.swap("fp8", verdict())
    newer = REVISION.model_copy(update={"commit_hash": "d" * 40})
    found = verdict("raw", "hold").model_copy(update={"commit_hash": "d" * 40})
    candidate = endpoint("raw").model_copy(
        update={
            "name": endpoint_name(newer, "raw"),
            "checkpoint": endpoint("raw").checkpoint.model_copy(update={"revision": newer}),
        }
    )
    apply_registration(world.routes, world.gateway, endpoint=candidate, verdict=found, at=AT)
    assert world.route.swap is not None
    world.pass_by(seconds=61)
    assert world.weights()[COPY] == 5000


def test_a_new_release_ends_the_swap_and_takes_the_alias(world: World) -> None:
    world.swap("fp8", verdict())
    world.register("fp8", verdict())
    newer = REVISION.model_copy(update={"commit_hash": "d" * 40})
    found = verdict("raw", at=AT + timedelta(hours=1)).model_copy(update={"commit_hash": "d" * 40})
    fresh = endpoint("raw").model_copy(
        update={
            "name": endpoint_name(newer, "raw"),
            "checkpoint": endpoint("raw").checkpoint.model_copy(update={"revision": newer}),
        }
    )
    done = apply_registration(world.routes, world.gateway, endpoint=fresh, verdict=found, at=AT)
    assert world.weights() == {fresh.name: 1}
    assert done.retired == (RAW,), "the copy still answers under its own name"


@pytest.mark.parametrize("outcome", ["hold", "fail"])
def test_a_copy_that_does_not_pass_any_more_gives_the_alias_back(world: World, outcome: Outcome) -> None:
    world.swap("fp8", verdict())
    world.register("fp8", verdict())
    for _ in range(2):
        world.pass_by(seconds=61)
    assert world.weights() == {RAW: 0, COPY: 10000}
    found = verdict(outcome=outcome, at=AT + timedelta(hours=1))
    done = world.swap("fp8", found)
    retired = world.register("fp8", found)
    assert done.reason == f"the verdict is {outcome}, so it was taken out"
    assert (world.weights(), world.route.swap) == ({RAW: 1}, None)
    assert retired == ((COPY,) if outcome == "fail" else ())


def test_an_alias_whose_only_endpoint_fails_is_withdrawn(world: World) -> None:
    world.swap("fp8", verdict())
    for time in (*[{"seconds": 61}] * 3, {"hours": 2}):
        world.pass_by(**time)
    done = world.swap("fp8", verdict(outcome="fail", at=AT + timedelta(hours=3)))
    assert (done.route_version, world.routes.get(ALIAS)) == (None, None)


def test_what_a_person_answers_for_stays_whatever_the_verdict(world: World) -> None:
    override = Grant(reason="for the pilot", by="kim", at=AT)
    dark = endpoint("fp8")
    target = world.route.targets[0].model_copy(update={"endpoint": dark.name, "grant": override})
    world.routes.put(with_targets(world.route, ALIAS, [*world.route.targets, target], at=AT), world.route.version)
    world.swap("fp8", verdict(outcome="fail"))
    assert world.weights() == {RAW: 1, COPY: 1}


def test_an_old_endpoint_that_another_alias_uses_goes_on(world: World) -> None:
    world.routes.put(with_targets(None, "team/pinned", world.route.targets, at=AT), 0)
    world.swap("fp8", verdict())
    for time in (*[{"seconds": 61}] * 3, {"hours": 2}):
        world.pass_by(**time)
    assert (world.stopped, world.weights()) == ([], {COPY: 10000})


def test_where_the_hardware_does_not_hold_both_the_alias_moves_at_once(world: World) -> None:
    done = apply_swap(
        world.routes,
        world.gateway,
        lambda: world.machine,
        endpoint=endpoint("fp8"),
        verdict=verdict(swap=SwapRule(how="recreate")),
        at=AT,
    )
    assert (world.stopped, world.weights()) == ([RAW], {COPY: 1})
    assert (done.how, world.route.targets[0].tags) == ("recreate", ("preview",))
    assert world.route.targets[0].grant == Grant(verdict_id=verdict().verdict_id, at=AT)
