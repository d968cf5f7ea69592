"""Whole suite runs: bounded when the endpoint is sick, resumable, landed once, never scored by accident."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.runner import ask_suite, run_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.clients.killed_runs import kill_amid, torn
from tests.fakes.openai_server import Fault, OpenAIServer

Asked = tuple[SuiteReport, list[dict[str, Any]]]


def ask(server: OpenAIServer, suite: Suite, work: Path, **options: Any) -> Asked:
    async def run() -> Asked:
        async with server.running():
            changes = options.pop("endpoint", {})
            options.setdefault("run_id", "run-1")
            return await ask_suite(suite, endpoint(server, **changes), lane="raw", work=work, **options)

    return asyncio.run(run())


def test_a_suite_is_asked_scored_and_landed(tmp_path: Path) -> None:
    server = OpenAIServer(answer=lambda body: echo(body) if "word3" not in str(body) else "no idea")
    store = ScoreStore(tmp_path / "scores")
    seen: list[tuple[float, float, str]] = []
    report, rows = ask(server, quality(), tmp_path, land=store.land, progress=lambda *p: seen.append(p))
    accuracy = report.metric("accuracy")
    assert accuracy is not None
    assert (accuracy.value, report.n_samples, report.n_unscored) == (pytest.approx(11 / 12), 12, 0)
    assert report.inference_seconds > 0
    assert Path(report.samples_file).is_file()
    assert [r["sample_id"] for r in rows] == [f"q{i}" for i in range(12)]
    assert seen[0][:2] == (0, 12)
    assert seen[-1][:2] == (12, 12)
    assert store.counts()["samples"] == 12
    landed = store.query("select value, n from scores where metric = 'accuracy'")[1]
    assert landed == [(pytest.approx(11 / 12), 12)]
    assert store.query("select count(*) from samples where ttft_ms > 0 and tokens_out > 0")[1] == [(12,)]
    assert list(tmp_path.glob("*.jsonl")) == []


def test_concurrency_asked_is_concurrency_observed(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, first_token_s=0.03)
    ask(server, quality(40, requests={"concurrency": 13}), tmp_path)
    assert server.most_at_once == 13


def test_two_suites_run_at_once_in_one_process(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, first_token_s=0.05)
    other = quality(8)
    other = other.model_copy(update={"spec": other.spec.model_copy(update={"name": "other"})})

    async def run() -> Sequence[Asked]:
        async with server.running():
            return await asyncio.gather(
                *(ask_suite(s, endpoint(server), lane="raw", run_id="r", work=tmp_path) for s in (quality(8), other))
            )

    reports = [report for report, _ in asyncio.run(run())]
    assert [r.suite for r in reports] == ["quality", "other"]
    assert [r.n_unscored for r in reports] == [0, 0]
    assert server.most_at_once == 8


def test_two_models_run_at_once_in_one_process(tmp_path: Path) -> None:
    servers = OpenAIServer(answer=echo, first_token_s=0.1), OpenAIServer(answer=lambda body: "no", first_token_s=0.1)

    async def run() -> Sequence[Asked]:
        async with servers[0].running(), servers[1].running():
            return await asyncio.gather(
                *(
                    ask_suite(quality(16), endpoint(s, digest=f"sha256:{i}"), lane="raw", run_id=f"r{i}", work=tmp_path)
                    for i, s in enumerate(servers)
                )
            )

    metrics = [report.metric("accuracy") for report, _ in asyncio.run(run())]
    assert [m and m.value for m in metrics] == [1.0, 0.0]
    assert [s.most_at_once for s in servers] == [4, 4]


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_both_routes_streamed_or_not(api: str, stream: bool, tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo)
    report, rows = ask(server, quality(4, requests={"api": api, "stream": stream}), tmp_path)
    accuracy = report.metric("accuracy")
    assert accuracy is not None
    assert accuracy.value == 1.0
    assert all(("prompt" in body) == (api == "completions") for body in server.bodies)
    assert all((row["ttft_ms"] is not None) == stream and row["tokens_out"] for row in rows)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("hang", "timeout"),
        ("html", "html"),
        ("empty_choices", "empty_choices"),
        ("unauthorized", "401"),
        ("not_found", "404"),
        ("rate_limited", "rate_limited"),
        ("server_error", "server_error"),
        ("cut_stream", "cut_stream"),
        ("slow_drip", "timeout"),
        ("close", "connection"),
    ],
)
def test_a_sick_endpoint_ends_soon_and_is_never_a_score(fault: Fault, word: str, tmp_path: Path) -> None:
    limits = {"attempt_timeout_s": 0.3, "retries": 1, "give_up_after": 4}
    server = OpenAIServer(fault=fault, answer=echo)
    started = time.monotonic()
    with pytest.raises(EvaluationFailed, match="could not be scored") as failed:
        ask(server, quality(60, requests=limits), tmp_path)
    assert word in failed.value.sentence
    assert time.monotonic() - started < 30
    assert len(server.bodies) < 40


def test_lost_samples_are_unscored_and_lower_no_score(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, fault="empty_choices", faulty=3)
    report, rows = ask(server, quality(), tmp_path)
    accuracy = report.metric("accuracy")
    assert accuracy is not None
    assert (accuracy.value, accuracy.n, report.n_unscored) == (1.0, 9, 3)
    assert [r["outcome_class"] for r in rows].count("infra_error") == 3
    assert report.failing[0].startswith("3 of 12 unscored: empty_choices")


def test_the_deadline_ends_the_run_and_what_was_not_asked_is_unscored(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, first_token_s=0.25)
    report, rows = ask(server, quality(60, requests={"concurrency": 2, "deadline_s": 0.9}), tmp_path)
    assert report.n_samples == 60
    assert 40 < report.n_unscored < 60
    assert {r["outcome_class"] for r in rows} == {"correct", "unscored"}


def test_truncated_reasoning_is_not_wrong(tmp_path: Path) -> None:
    cut = OpenAIServer(answer=lambda body: "<think> let me see" if "word1" in str(body) else echo(body), ends=False)
    report, rows = ask(cut, quality(2), tmp_path)
    assert {r["sample_id"]: r["outcome_class"] for r in rows}["q1"] == "truncated"
    assert report.n_unscored == 1


def test_epochs_ask_again_with_another_seed(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo)
    report, rows = ask(server, quality(3, sampling={"epochs": 2, "temperature": 1}), tmp_path)
    assert sorted({b["seed"] for b in server.bodies}) == [1, 2]
    assert [r["epoch"] for r in rows] == [0, 0, 0, 1, 1, 1]
    assert report.n_samples == 6


KILLED = """
import sys
from pathlib import Path
from modelops_dagster.clients.gauntlet.runner import run_suite
from tests.clients.gauntlet_parts import endpoint, quality
from tests.fakes.openai_server import OpenAIServer
server = OpenAIServer(url=sys.argv[1])
suite = quality(20, requests={"concurrency": 1})
run_suite(suite, endpoint(server), lane="raw", run_id="first", work=Path(sys.argv[2]))
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    suite = quality(20, requests={"concurrency": 1})
    server = OpenAIServer(answer=echo, first_token_s=0.1)
    with server.in_thread():
        kill_amid(server, KILLED, server.url, str(tmp_path))
        kept = torn(tmp_path, "quality-*.jsonl", '{"sample_id": "q19", "epoch"')
        time.sleep(0.2)
        server.bodies.clear()
        report = run_suite(suite, endpoint(server), lane="raw", run_id="second", work=tmp_path)
        assert len(server.bodies) == 20 - kept
        assert (report.run_id, report.n_samples, report.n_unscored) == ("second", 20, 0)
        accuracy = report.metric("accuracy")
        assert accuracy is not None
        assert accuracy.value == 1.0
        assert not list(tmp_path.glob("quality-*.jsonl"))
        server.bodies.clear()
        run_suite(suite, endpoint(server), lane="raw", run_id="third", work=tmp_path)
        assert len(server.bodies) == 20


def test_another_checkpoint_engine_or_instrument_resumes_nothing(tmp_path: Path) -> None:
    suite = quality(4)

    def broken_disk(table: str, rows: Sequence[Any], *, repo_id: str, run_id: str) -> Path:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        ask(OpenAIServer(answer=echo), suite, tmp_path, land=broken_disk)
    for changes in ({"digest": "sha256:2"}, {"engine_version": "2"}, {"engine": "other"}, {"variant": "v"}):
        server = OpenAIServer(answer=echo)
        ask(server, suite, tmp_path, endpoint=changes)
        assert len(server.bodies) == 4
    other = OpenAIServer(answer=echo)
    ask(other, quality(4, system_prompt="Be kind."), tmp_path)
    assert len(other.bodies) == 4
    same = OpenAIServer(answer=echo)
    ask(same, suite, tmp_path)
    assert len(same.bodies) == 0


def test_a_failed_landing_keeps_the_answers(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo)

    def broken_disk(table: str, rows: Sequence[Any], *, repo_id: str, run_id: str) -> Path:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        ask(server, quality(), tmp_path, land=broken_disk)
    again = OpenAIServer(answer=echo)
    report, _ = ask(again, quality(), tmp_path)
    assert (len(again.bodies), report.n_samples, report.n_unscored) == (0, 12, 0)


def test_two_processes_do_not_ask_the_same(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, first_token_s=0.1)

    async def run() -> list[Any]:
        async with server.running():
            runs = [ask_suite(quality(), endpoint(server), lane="raw", run_id=r, work=tmp_path) for r in ("r1", "r2")]
            return await asyncio.gather(*runs, return_exceptions=True)

    first, second = asyncio.run(run())
    assert first[0].n_unscored == 0
    assert isinstance(second, EvaluationFailed)
    assert "by another process" in second.sentence


def test_cancelling_a_run_leaves_no_request_and_keeps_what_was_scored(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, first_token_s=0.1)

    async def run() -> None:
        async with server.running():
            asking = asyncio.ensure_future(
                ask_suite(quality(60), endpoint(server), lane="raw", run_id="r", work=tmp_path)
            )
            await asyncio.sleep(0.5)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            asked = len(server.bodies)
            await asyncio.sleep(0.3)
            assert (server.at_once, len(server.bodies)) == (0, asked)

    asyncio.run(run())
    (journal,) = tmp_path.glob("*.jsonl")
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) > 4
