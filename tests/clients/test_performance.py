"""Load from a process of its own, read against a server whose times are known."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelops_dagster.clients.gauntlet.load_run import prompt
from modelops_dagster.clients.gauntlet.runner import ask_suite, run_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.answers import answers
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.load_times import load_table
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from modelops_dagster.domain.summary import load_summary
from tests.clients.gauntlet_parts import endpoint
from tests.fakes.openai_server import OpenAIServer

MODULE = "modelops_dagster.clients.gauntlet.performance"


def load(**changes: Any) -> Suite:
    limits = changes.pop("limits", {})
    settings = {
        "concurrencies": [1, 3], "requests": 6, "warmups": 2, "output_tokens": 8, "input_words": 20,
        "goodput": {"ttft_ms": 400}, "max_lag_ms": 500, **changes,
    }  # fmt: skip
    spec = {"name": "performance", "kind": "performance", "title": "P", "performance": settings, "requests": limits}
    return Suite(spec=SuiteSpec.model_validate(spec))


def value(report: Any, name: str) -> float:
    metric = report.metric(name)
    assert metric is not None
    assert metric.value is not None
    return float(metric.value)


def test_times_are_those_of_the_server(tmp_path: Path) -> None:
    slow = OpenAIServer(
        answer=lambda body: "one two three four five six seven eight", role_chunk_first=True, first_token_s=0.25,
        token_s=0.03,
    )  # fmt: skip
    store = ScoreStore(tmp_path / "scores")
    seen: list[tuple[float, float, str]] = []
    with slow.in_thread() as server:
        report = run_suite(
            load(goodput={"ttft_ms": 4000}), endpoint(server), lane="raw", run_id="r", work=tmp_path, land=store.land,
            progress=lambda *p: seen.append(p),
        )  # fmt: skip
    assert report.failing == ()
    for at in (1, 3):
        # wide, as a busy machine adds to all of them; over all eight tokens it would be 57 ms each
        assert 250 <= value(report, f"ttft_p50_ms@{at}") < 500
        assert 29.5 <= value(report, f"tpot_p50_ms@{at}") < 55
        assert 455 <= value(report, f"e2el_p50_ms@{at}") < 1000
        assert value(report, f"goodput@{at}") == 1
    assert value(report, "output_tokens_per_s@3") == pytest.approx(3 * 8 / 0.46, rel=0.5)
    assert server.most_at_once == 3
    assert len({b["messages"][0]["content"] for b in server.bodies}) == len(server.bodies)
    assert seen[-1][:2] == (12, 12)
    assert store.query("select count(*), min(first_chunk_ms) < 150 from perf_requests where ttft_ms > 240")[1] == [
        (12, True)
    ]


def test_an_engine_that_refuses_ignore_eos_is_asked_without(tmp_path: Path) -> None:
    strict = OpenAIServer(answer=lambda body: "a b c d e f g h", offers=frozenset())
    with strict.in_thread() as server:
        report = run_suite(load(), endpoint(server), lane="raw", run_id="r", work=tmp_path)
    assert report.n_unscored == 0
    assert ["ignore_eos" in b for b in server.bodies].count(True) == 1


def test_failed_requests_are_not_fast_requests(tmp_path: Path) -> None:
    broken = OpenAIServer(answer=lambda body: "a b c d e f g h", fault="cut_stream", faulty=5)
    with broken.in_thread() as server:
        report = run_suite(load(warmups=0), endpoint(server), lane="raw", run_id="r", work=tmp_path)
    assert report.n_unscored == 5
    assert value(report, "goodput@1") == pytest.approx(1 / 6)
    assert "cut_stream" in report.failing[0]


def test_an_endpoint_that_only_fails_is_no_result(tmp_path: Path) -> None:
    with (
        OpenAIServer(fault="unauthorized").in_thread() as server,
        pytest.raises(EvaluationFailed, match=r"could not be scored.*401"),
    ):
        run_suite(load(), endpoint(server), lane="raw", run_id="r", work=tmp_path)


def test_the_deadline_ends_it(tmp_path: Path) -> None:
    with (
        OpenAIServer(fault="hang").in_thread() as server,
        pytest.raises(EvaluationFailed, match=r"passed its deadline of 1\.5 s"),
    ):
        run_suite(load(limits={"deadline_s": 1.5}), endpoint(server), lane="raw", run_id="r", work=tmp_path)


def test_a_lagging_client_voids_the_run(tmp_path: Path) -> None:
    # long enough for the monitor to look a few times; no loop wakes up within a millionth of a millisecond
    with OpenAIServer(answer=lambda body: "a b c", first_token_s=0.2).in_thread() as server:
        suite = load(max_lag_ms=1e-6, max_lag_share=0)
        report = run_suite(suite, endpoint(server), lane="raw", run_id="r", work=tmp_path)
    assert "is void" in report.failing[0]
    metric = report.metric("ttft_p50_ms@1")
    assert metric is not None
    assert metric.value is None
    assert report.n_unscored == report.n_samples


def test_an_open_loop_sends_when_requests_are_due_and_counts_their_waiting(tmp_path: Path) -> None:
    # 20 requests/s at a server that needs 0.2 s for one, with one slot: work for 2.4 s arrives within 0.6 s
    slow = OpenAIServer(answer=lambda body: "a b c d e f g h", first_token_s=0.2)
    store = ScoreStore(tmp_path / "scores")
    open_loop = {"rates": [20], "requests": 12, "max_in_flight": 1}
    suite = load(concurrencies=[1], requests=1, open_loop=open_loop, goodput={"ttft_ms": 700})
    with slow.in_thread() as server:
        report = run_suite(suite, endpoint(server), lane="raw", run_id="r", work=tmp_path, land=store.land)
    assert report.failing == ()
    assert report.n_samples == 13
    assert value(report, "open_ttft_p95_ms@20") > 1000, "what waited for a slot was late all the same"
    assert value(report, "open_client_queue_p95_ms@20") > 800
    assert value(report, "open_goodput@20") < 0.6
    sent = "select count(*), max(ttft_ms) < 700, count(distinct started_at) from perf_requests where rate = 20"
    assert store.query(sent)[1] == [(12, True, 12)], "rows keep times since sending, and when each was due"
    (closed,), (opened,) = (
        [row for row in load_summary(report) if row["load"] == label] for label in ("1 at a time", "20 requests/s")
    )
    assert closed["goodput"] == "1.00"
    assert opened["ttft_p95_ms"] != closed["ttft_p95_ms"]


def test_an_open_loop_does_not_wait_for_answers(tmp_path: Path) -> None:
    slow = OpenAIServer(answer=lambda body: "a b", first_token_s=0.5)
    suite = load(concurrencies=[1], requests=1, output_tokens=2, open_loop={"rates": [40], "requests": 20})
    with slow.in_thread() as server:
        report = run_suite(suite, endpoint(server), lane="raw", run_id="r", work=tmp_path)
    assert server.most_at_once > 3
    assert value(report, "open_ttft_p50_ms@40") >= 500


def test_without_usage_a_chunk_counts_as_a_token_and_the_row_says_so(tmp_path: Path) -> None:
    silent = OpenAIServer(answer=lambda body: "a b c d", ignores=frozenset({"usage_in_stream"}))
    store = ScoreStore(tmp_path / "scores")
    with silent.in_thread() as server:
        run_suite(load(output_tokens=4), endpoint(server), lane="raw", run_id="r", work=tmp_path, land=store.land)
    told = "select distinct tokens_out, tokens_out_source, suite from perf_requests"
    assert store.query(told)[1] == [(4, "chunks", "performance")]


def test_stored_requests_give_every_tool_s_numbers(tmp_path: Path) -> None:
    slow = OpenAIServer(answer=lambda body: "a b c d e f g h", role_chunk_first=True, first_token_s=0.2)
    store = ScoreStore(tmp_path / "scores")
    with slow.in_thread() as server:
        report = run_suite(load(), endpoint(server), lane="raw", run_id="r", work=tmp_path, land=store.land)
    rows = answers(store, "r", "performance", "org-model", "perf_requests")
    ours, vllm = load_table(rows, "modelops"), load_table(rows, "vllm")
    assert [(line["loop"], line["level"], line["requests"]) for line in ours] == [
        ("closed", "1", 6),
        ("closed", "3", 6),
    ]
    assert ours[0]["ttft_p50_ms"] == pytest.approx(value(report, "ttft_p50_ms@1"))
    assert ours[0]["tpot_p50_ms"] == pytest.approx(value(report, "tpot_p50_ms@1"))
    assert ours[0]["requests_per_s"] == pytest.approx(value(report, "requests_per_s@1"), rel=0.3)
    assert vllm[0]["ttft_p50_ms"] < ours[0]["ttft_p50_ms"] - 100, "a role is no token"


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if MODULE in p.cmdline()]


def test_cancelling_stops_the_load_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with OpenAIServer(answer=lambda body: "a b", first_token_s=0.2).running() as server:
            asking = asyncio.ensure_future(
                ask_suite(load(requests=500), endpoint(server), lane="raw", run_id="r", work=tmp_path)
            )
            while not server.bodies:
                await asyncio.sleep(0.02)
            assert children()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            assert not children()

    asyncio.run(run())


PARENT = """
import sys
from pathlib import Path
from modelops_dagster.clients.gauntlet.runner import run_suite
from tests.clients.gauntlet_parts import endpoint
from tests.clients.test_performance import load
from tests.fakes.openai_server import OpenAIServer
run_suite(load(requests=500), endpoint(OpenAIServer(url=sys.argv[1])), lane="raw", run_id="r", work=Path(sys.argv[2]))
"""


def test_a_killed_parent_leaves_no_load_process(tmp_path: Path) -> None:
    with OpenAIServer(answer=lambda body: "a b", first_token_s=0.1).in_thread() as server:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, server.url, str(tmp_path)])
        while not server.bodies:
            time.sleep(0.02)
            assert parent.poll() is None
        (child,) = children()
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        child.wait(timeout=5)


def test_prompts_share_no_prefix() -> None:
    prompts = [prompt(48) for _ in range(50)]
    assert len({p[:10] for p in prompts}) == 50
    assert all(40 <= len(p.split()) <= 56 for p in prompts)
    cached = [prompt(48, shared=100) for _ in range(50)]
    assert len({tuple(p.split()[:100]) for p in cached}) == 1
    assert len({p.split()[100] for p in cached}) == 50
