"""Candidate and incumbent asked side by side: the same samples, in one random order, stopped together."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.gauntlet.runner import ask_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.policies import MarginRule
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.fakes.openai_server import OpenAIServer
from tests.fakes.values import a_checkpoint

RULE = MarginRule(suite="quality", margin=0.5)


def old(server: OpenAIServer, **changes: Any) -> Beside:
    """The incumbent: the same model at an earlier commit."""
    checkpoint = a_checkpoint(commit_hash="b" * 40, digest="sha256:old")
    return Beside(endpoint(server, name="org-model-old", checkpoint=checkpoint, **changes), "raw", RULE)


def ask(new: OpenAIServer, incumbent: OpenAIServer, suite: Suite, work: Path, **options: Any) -> SuiteReport:
    async def run() -> SuiteReport:
        async with new.running(), incumbent.running():
            changes = options.pop("changes", {})
            report, _ = await ask_suite(
                suite, endpoint(new), lane="raw", run_id="run-1", work=work, beside=old(incumbent, **changes), **options
            )
            return report

    return asyncio.run(run())


def test_both_arms_answer_the_same_samples_and_land_apart(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    new, incumbent = OpenAIServer(answer=echo), OpenAIServer(answer=lambda body: "no idea")
    report = ask(new, incumbent, quality(12), tmp_path, land=store.land)
    assert report.incumbent is not None
    assert (report.incumbent.endpoint, report.incumbent.interleaved) == ("org-model-old", True)
    accuracy = report.metric("accuracy")
    assert accuracy is not None
    assert (accuracy.value, report.n_samples) == (1.0, 12)
    counted = "select arm, endpoint, commit_hash, count(*), avg(score), count(distinct turn) from samples group by all"
    landed = sorted(store.query(counted)[1])
    assert landed == [
        ("candidate", "org-model", "a" * 40, 12, 1.0, 12),
        ("incumbent", "org-model-old", "b" * 40, 12, 0.0, 12),
    ]
    apart = "select count(*) from samples a join samples b using (item_uid) where a.turn <> b.turn"
    assert store.query(apart)[1] == [(0,)]
    assert store.query("select distinct endpoint from scores")[1] == [("org-model",)]
    assert list(tmp_path.glob("*.jsonl")) == []


def test_the_order_is_random_and_the_same_for_both(tmp_path: Path) -> None:
    new, incumbent = OpenAIServer(answer=echo), OpenAIServer(answer=echo)
    ask(new, incumbent, quality(40, requests={"concurrency": 1}), tmp_path)
    asked = [[b["messages"][-1]["content"] for b in server.bodies] for server in (new, incumbent)]
    assert asked[0] == asked[1]
    assert asked[0] != sorted(asked[0], key=lambda text: int(text.removeprefix("Say word")))


def test_a_quick_arm_waits_for_a_slow_one(tmp_path: Path) -> None:
    most_ahead = 0
    incumbent = OpenAIServer(answer=echo, first_token_s=0.02)

    def watch(body: Any) -> str:
        nonlocal most_ahead
        most_ahead = max(most_ahead, len(new.bodies) - len(incumbent.bodies))
        return echo(body)

    new = OpenAIServer(answer=watch)
    ask(new, incumbent, quality(40, requests={"concurrency": 2}), tmp_path)
    assert len(new.bodies) == len(incumbent.bodies) == 40
    assert most_ahead <= 2 * 2 + 2


def test_harm_stops_both_and_says_so(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    new, incumbent = OpenAIServer(answer=lambda body: "no idea"), OpenAIServer(answer=echo)
    report = ask(new, incumbent, quality(80, requests={"concurrency": 2}), tmp_path, land=store.land)
    assert report.n_unscored > 50
    assert "stopped for harm" in report.failing[0]
    assert len(new.bodies) < 25
    assert len(incumbent.bodies) < 30
    assert store.query("select count(*) from samples where arm = 'incumbent'")[1] == [(80,)]


def test_a_suite_that_only_advises_is_asked_to_its_end(tmp_path: Path) -> None:
    suite = quality(40)
    other = suite.model_copy(update={"spec": suite.spec.model_copy(update={"name": "compliance"})})
    report = ask(OpenAIServer(answer=lambda body: "no idea"), OpenAIServer(answer=echo), other, tmp_path)
    assert report.n_unscored == 0


def test_an_incumbent_that_breaks_stops_nobody(tmp_path: Path) -> None:
    new, incumbent = OpenAIServer(answer=echo), OpenAIServer(fault="server_error")
    limits = {"attempt_timeout_s": 1, "retries": 0, "give_up_after": 3}
    report = ask(new, incumbent, quality(30, requests=limits), tmp_path)
    assert report.n_unscored == 0
    assert report.incumbent is None
    assert "org-model-old could not be scored" in report.incumbent_note


def test_the_shorter_context_decides_what_both_are_asked(tmp_path: Path) -> None:
    suite = quality(10)
    long = [
        s.model_copy(update={"metadata": s.metadata.model_copy(update={"min_context": 1000})}) for s in suite.samples
    ]
    suite = suite.model_copy(update={"samples": (*suite.samples[:6], *long[6:])})
    new, incumbent = OpenAIServer(answer=echo), OpenAIServer(answer=echo)
    report = ask(new, incumbent, suite, tmp_path, changes={"max_context": 512})
    assert report.n_samples == 6
    assert len(incumbent.bodies) == 6


def test_a_run_that_resumes_asks_neither_arm_twice(tmp_path: Path) -> None:
    new, incumbent = OpenAIServer(answer=echo, first_token_s=0.03), OpenAIServer(answer=echo, first_token_s=0.03)

    async def run() -> tuple[int, int, SuiteReport]:
        async with new.running(), incumbent.running():
            suite, beside = quality(60, requests={"concurrency": 2}), old(incumbent)

            def asking() -> Any:
                return ask_suite(suite, endpoint(new), lane="raw", run_id="r", work=tmp_path, beside=beside)

            first = asyncio.ensure_future(asking())
            while len(incumbent.bodies) < 20:
                await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            before = len(new.bodies), len(incumbent.bodies)
            report, _ = await asking()
            return *before, report

    asked_new, asked_old, report = asyncio.run(run())
    assert report.n_unscored == 0
    assert len(new.bodies) <= 60 + 2 < 60 + asked_new
    assert len(incumbent.bodies) <= 60 + 2 < 60 + asked_old
