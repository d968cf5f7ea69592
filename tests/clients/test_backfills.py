"""One suite over many models: order, waking and putting back, what is recorded, and going on after a kill."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.backfills import Backfill, find_targets
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.backfills import Done, Target, in_order
from modelops_dagster.domain.endpoints import Endpoint, EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, InvalidSpec
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import Suite
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.clients.grading_parts import by_number, calibrated, grader, written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer, last_user
from tests.fakes.values import a_checkpoint

ONE_AT_A_TIME = quality(4, requests={"concurrency": 1})


class Controller:
    """Endpoints that wake at once, and a diary of what was asked of it."""

    def __init__(self, url: str, states: dict[str, str]) -> None:
        self.url, self.states = url, states
        self.diary: list[str] = []
        self.most_awake = 0

    def get(self, name: str) -> EndpointStatus | None:
        return self._status(name) if name in self.states else None

    def start(self, name: str) -> None:
        self.diary.append(f"start {name}")
        self.states[name] = "RuntimeError" if name.startswith("broken") else "Running"
        self.most_awake = max(self.most_awake, sum(s == "Running" for s in self.states.values()))

    def stop(self, name: str) -> None:
        self.diary.append(f"stop {name}")
        self.states[name] = "Stopped"

    def wait_ready(self, name: str, timeout_s: float) -> EndpointStatus:
        return self._status(name)

    def wait_stopped(self, name: str, timeout_s: float) -> None:
        assert self.states[name] == "Stopped"

    def _status(self, name: str) -> EndpointStatus:
        state = self.states[name]
        spec = EndpointSpec(
            name=name, checkpoint="/nowhere", checkpoint_digest="sha256:1", engine="fake", served_model_name="fake",
            max_context=2048,
        )  # fmt: skip
        return EndpointStatus(
            spec=spec,
            desired="Running",
            state=EndpointState(state),
            url=self.url if state == "Running" else None,
            message="out of memory" if state == "RuntimeError" else "",
            since=datetime.now(UTC),
        )


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=echo).in_thread() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def serves(server: OpenAIServer, name: str) -> Endpoint:
    return endpoint(server, name=name, checkpoint=a_checkpoint(f"org/{name}", digest=f"sha256:{name}"))


def lineage_of(tmp_path: Path, server: OpenAIServer, names: list[str]) -> Path:
    for name in names:
        write_value(tmp_path / "lineage", "raw/endpoint", f"org/{name}", "r", serves(server, name))
    return tmp_path / "lineage"


def backfill(
    tmp_path: Path, store: ScoreStore, controller: Controller, suite: Suite, run_id: str = "bf", **more: Any
) -> Backfill:
    return Backfill(suite, store=store, endpoints=controller, work=tmp_path / "work", run_id=run_id, **more)


def outcomes(done: list[Done]) -> dict[str, str]:
    return {one.target.endpoint.name: one.outcome for one in done}


def test_running_endpoints_come_first_and_each_sleeping_one_is_woken_once(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    controller = Controller(server.url, {"aa": "Stopped", "bb": "Running", "cc": "Stopped"})
    lineage = lineage_of(tmp_path, server, ["aa", "bb", "cc"])
    targets = find_targets(lineage, controller, ["raw"])
    assert [t.endpoint.name for t in targets] == ["bb", "aa", "cc"]
    seen: list[Done] = []
    done = asyncio.run(backfill(tmp_path, store, controller, quality(4), at_once=2).run(targets, seen.append))
    assert outcomes(done) == {"aa": "evaluated", "bb": "evaluated", "cc": "evaluated"}
    assert seen == done
    assert sorted(controller.diary) == ["start aa", "start cc", "stop aa", "stop cc"], "those that ran are left running"
    assert controller.most_awake == 2, "one woken beside the one that ran"
    assert controller.states == {"aa": "Stopped", "bb": "Running", "cc": "Stopped"}
    rows = store.query("select repo_id, outcome, n_samples from backfills order by repo_id")[1]
    assert rows == [("org/aa", "evaluated", 4), ("org/bb", "evaluated", 4), ("org/cc", "evaluated", 4)]


def test_what_has_scores_of_this_suite_is_not_asked_again(tmp_path: Path, store: ScoreStore, server: OpenAIServer):
    controller = Controller(server.url, {"aa": "Running", "bb": "Running"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa", "bb"]), controller, ["raw"])
    asyncio.run(backfill(tmp_path, store, controller, quality(4)).run(targets[:1], lambda one: None))
    asked = len(server.bodies)
    done = asyncio.run(backfill(tmp_path, store, controller, quality(4), "bf-2").run(targets, lambda one: None))
    assert outcomes(done) == {"aa": "current", "bb": "evaluated"}
    assert len(server.bodies) == asked + 4
    changed = asyncio.run(backfill(tmp_path, store, controller, quality(5), "bf-3").run(targets, lambda one: None))
    assert outcomes(changed) == {"aa": "evaluated", "bb": "evaluated"}, "a new version of the suite is asked"


def test_one_that_a_killed_backfill_woke_is_put_back_by_the_next(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    controller = Controller(server.url, {"aa": "Stopped"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa"]), controller, ["raw"])

    async def killed() -> None:
        server.fault = "hang"
        work = asyncio.create_task(backfill(tmp_path, store, controller, quality(4)).run(targets, lambda one: None))
        while not server.bodies:
            await asyncio.sleep(0.01)
        # a kill -9 runs no clean-up: what the stop would do is undone
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(killed())
    server.fault = "none"
    controller.states["aa"] = "Running"
    (tmp_path / "work" / "woken" / "aa").touch()
    found = find_targets(tmp_path / "lineage", controller, ["raw"])
    assert outcomes(asyncio.run(backfill(tmp_path, store, controller, quality(4)).run(found, lambda one: None))) == {
        "aa": "evaluated"
    }
    assert controller.states["aa"] == "Stopped"
    assert not (tmp_path / "work" / "woken" / "aa").exists()
    controller.states["aa"] = "Running"
    (tmp_path / "work" / "woken" / "aa").touch()
    again = asyncio.run(backfill(tmp_path, store, controller, quality(4), "bf-2").run(found, lambda one: None))
    assert (outcomes(again), controller.states["aa"]) == ({"aa": "current"}, "Stopped"), "killed after its last answer"


def test_what_a_kill_kept_from_its_page_is_asked_again_and_replaces_its_rows(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    controller = Controller(server.url, {"aa": "Running", "bb": "Running"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa", "bb"]), controller, ["raw"])
    kept: dict[str, str] = {}

    def keep(one: Done) -> None:
        if one.report is not None:
            kept[one.target.repo_id] = one.report.instrument

    def again() -> dict[str, str]:
        work = backfill(tmp_path, store, controller, quality(4), kept=lambda target: kept.get(target.repo_id))
        return outcomes(asyncio.run(work.run(targets, keep)))

    assert again() == {"aa": "evaluated", "bb": "evaluated"}
    del kept["org/bb"]  # as a kill between the landing of its scores and this leaves it
    assert again() == {"aa": "current", "bb": "evaluated"}
    assert again() == {"aa": "current", "bb": "current"}
    sql = "select repo_id, count(*), count(distinct sample_id) from samples group by all order by repo_id"
    assert store.query(sql)[1] == [("org/aa", 4, 4), ("org/bb", 4, 4)]


def test_a_result_is_kept_before_its_endpoint_is_put_back(tmp_path: Path, store: ScoreStore, server: OpenAIServer):
    controller = Controller(server.url, {"aa": "Stopped"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa"]), controller, ["raw"])

    def keep(one: Done) -> None:
        controller.diary.append(f"keep {one.target.endpoint.name}")

    asyncio.run(backfill(tmp_path, store, controller, quality(4)).run(targets, keep))
    assert controller.diary == ["start aa", "keep aa", "stop aa"]


def test_one_that_does_not_stop_is_told_and_left_to_the_next(tmp_path: Path, store: ScoreStore, server: OpenAIServer):
    class Stubborn(Controller):
        def stop(self, name: str) -> None:
            raise EndpointFailed(f"Endpoint {name} has processes that do not end.")

    stubborn = Stubborn(server.url, {"aa": "Stopped"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa"]), stubborn, ["raw"])
    (done,) = asyncio.run(backfill(tmp_path, store, stubborn, quality(4)).run(targets, lambda one: None))
    assert (done.outcome, done.reason) == (
        "evaluated",
        "its endpoint aa is still awake: Endpoint aa has processes that do not end.",
    )
    controller = Controller(server.url, {"aa": "Running"})
    (done,) = asyncio.run(backfill(tmp_path, store, controller, quality(4)).run(targets, lambda one: None))
    assert (done.outcome, controller.states["aa"]) == ("current", "Stopped")


def test_a_model_without_endpoint_is_scored_again_where_only_scoring_changed(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    suite = quality(4)
    run_suite(suite, serves(server, "gone"), lane="raw", run_id="first", work=tmp_path / "work", land=store.land)
    asked = len(server.bodies)
    stricter = tuple(
        Sample.model_validate(s.model_dump() | {"metadata": s.metadata.model_dump() | {"scorer": "exact"}})
        for s in suite.samples
    )
    targets = find_targets(lineage_of(tmp_path, server, ["gone"]), Controller(server.url, {}), ["raw"])
    work = backfill(tmp_path, store, Controller(server.url, {}), Suite(spec=suite.spec, samples=stricter))
    (done,) = asyncio.run(work.run(targets, lambda one: None))
    assert (done.outcome, done.reason) == ("rescored", "")
    assert len(server.bodies) == asked, "nobody was asked"
    accuracy = store.query("select run_id, value from scores where metric = 'accuracy' order by evaluated_at")[1]
    assert accuracy == [("first", 1.0), ("bf", 0.0)]


def test_a_model_without_endpoint_is_not_scored_again_where_nothing_changed(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    suite = quality(4)
    run_suite(suite, serves(server, "gone"), lane="raw", run_id="first", work=tmp_path / "work", land=store.land)
    controller = Controller(server.url, {})
    targets = find_targets(lineage_of(tmp_path, server, ["gone"]), controller, ["raw"])
    work = backfill(tmp_path, store, controller, suite, again=True)
    assert outcomes(asyncio.run(work.run(targets, lambda one: None))) == {"gone": "current"}
    assert store.query("select distinct run_id from scores")[1] == [("first",)]


def test_graders_judge_what_no_code_can_score(tmp_path: Path, store: ScoreStore, server: OpenAIServer):
    """Of one that runs and of one that is gone, whose stored answers a grader can judge that was not there then."""
    suite = written(4, categories=("summary/x",))
    server.answer = by_number
    run_suite(suite, serves(server, "gone"), lane="raw", run_id="first", work=tmp_path / "work", land=store.land)
    asked = len(server.bodies)
    controller = Controller(server.url, {"aa": "Running"})
    targets = find_targets(lineage_of(tmp_path, server, ["aa", "gone"]), controller, ["raw"])
    with GraderModel().server().in_thread() as judge:
        one = grader(judge)
        panel = Panel((one,), (calibrated(one, "summary"),))
        done = asyncio.run(backfill(tmp_path, store, controller, suite, panel=panel).run(targets, lambda one: None))
        assert outcomes(done) == {"aa": "evaluated", "gone": "rescored"}
        again = backfill(tmp_path, store, controller, suite, "bf-2", panel=panel)
        assert outcomes(asyncio.run(again.run(targets, lambda one: None))) == {"aa": "current", "gone": "current"}
    assert len(server.bodies) == asked + 4
    sql = "select repo_id, value from scores where metric = 'accuracy' and run_id = 'bf' order by repo_id"
    assert store.query(sql)[1] == [("org/aa", 0.5), ("org/gone", 0.5)]
    sql = "select repo_id, count(distinct sample_id) from judgements group by all order by repo_id"
    assert store.query(sql)[1] == [("org/aa", 4), ("org/gone", 4)]
    reports = {one.target.endpoint.name: one.report for one in done}
    assert all(report is not None and report.graders and report.calibrations for report in reports.values())


def _backfill_in_a_process(root: Path, url: str, names: list[str]) -> None:
    controller = Controller(url, dict.fromkeys(names, "Running"))
    targets = find_targets(root / "lineage", controller, ["raw"])
    work = backfill(root, ScoreStore(root / "scores"), controller, ONE_AT_A_TIME, "killed", at_once=1)
    asyncio.run(work.run(targets, lambda one: None))


def test_one_that_was_killed_goes_on_at_the_sample_where_it_stopped(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    names = ["aa", "bb", "cc"]
    lineage = lineage_of(tmp_path, server, names)
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=_backfill_in_a_process, args=(tmp_path, server.url, names))
    asked: list[str] = []

    def answer(body: Any) -> str:
        asked.append(last_user(body))
        if len(asked) == 6:  # the second model's second question
            assert killed.pid is not None
            os.kill(killed.pid, signal.SIGKILL)
        return echo(body)

    server.answer = answer
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert store.query("select repo_id, outcome, n_samples from backfills")[1] == [("org/aa", "evaluated", 4)]
    assert store.query("select distinct repo_id from scores")[1] == [("org/aa",)], "and nothing half of the second"
    controller = Controller(server.url, dict.fromkeys(names, "Running"))
    work = backfill(tmp_path, store, controller, ONE_AT_A_TIME, "again", at_once=1)
    done = asyncio.run(work.run(find_targets(lineage, controller, ["raw"]), lambda one: None))
    assert outcomes(done) == {"aa": "current", "bb": "evaluated", "cc": "evaluated"}
    assert len(asked) == 13, "of twelve questions, the one that was being answered was asked twice"
    sql = "select repo_id, count(*), count(distinct sample_id) from samples group by all order by repo_id"
    assert store.query(sql)[1] == [("org/aa", 4, 4), ("org/bb", 4, 4), ("org/cc", 4, 4)]


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        (quality(6), "2 of 6 samples were never asked of it"),
        (quality(4, sampling={"temperature": 0.9}), "sampling changed"),
        (quality(4, name="other"), "no answers to other are stored"),
    ],
)
def test_a_model_without_endpoint_is_marked_unreachable_where_it_must_be_asked(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer, suite: Suite, words: str
):
    run_suite(quality(4), serves(server, "gone"), lane="raw", run_id="first", work=tmp_path / "w", land=store.land)
    targets = find_targets(lineage_of(tmp_path, server, ["gone"]), Controller(server.url, {}), ["raw"])
    done = asyncio.run(backfill(tmp_path, store, Controller(server.url, {}), suite).run(targets, lambda one: None))
    assert [one.outcome for one in done] == ["unreachable"]
    assert words in done[0].reason
    assert store.query("select repo_id, outcome from backfills")[1] == [("org/gone", "unreachable")]


def test_one_that_does_not_wake_is_unreachable_and_stops_nobody(
    tmp_path: Path, store: ScoreStore, server: OpenAIServer
):
    controller = Controller(server.url, {"broken": "Stopped", "fine": "Running"})
    targets = find_targets(lineage_of(tmp_path, server, ["broken", "fine"]), controller, ["raw"])
    done = asyncio.run(backfill(tmp_path, store, controller, quality(4)).run(targets, lambda one: None))
    assert outcomes(done) == {"broken": "unreachable", "fine": "evaluated"}
    assert "out of memory" in next(one.reason for one in done if one.outcome == "unreachable")


def test_a_model_that_was_never_served_is_refused(tmp_path: Path, server: OpenAIServer):
    lineage = lineage_of(tmp_path, server, ["aa"])
    with pytest.raises(InvalidSpec, match="'org/nobody' was never served"):
        find_targets(lineage, Controller(server.url, {}), ["raw"], ["org/nobody"])


def test_sleeping_ones_of_one_engine_follow_each_other(server: OpenAIServer):
    made = [
        Target(lane="raw", endpoint=serves(server, name).model_copy(update={"engine": engine}), running=running)
        for name, engine, running in (("aa", "y", False), ("bb", "x", False), ("cc", "y", False), ("dd", "y", True))
    ]
    assert [t.endpoint.name for t in in_order(made)] == ["dd", "bb", "aa", "cc"]
