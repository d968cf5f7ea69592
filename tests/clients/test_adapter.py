"""Suites asked through a chain: what the server sees, what is asked twice, what is written, and what ends a run."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from modelops_dagster.clients.gauntlet.runner import ask_suite
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.fakes.openai_server import OpenAIServer

Asked = tuple[SuiteReport, list[dict[str, Any]]]


def chain(*links: tuple[str, dict[str, Any]], hooks: Sequence[dict[str, Any]] = ()) -> Chain:
    names = [name for name, _ in links]
    with_endpoint = links if "endpoint" in names else (*links, ("endpoint", {}))
    return Chain.model_validate(
        {"interceptors": [{"name": n, "config": c} for n, c in with_endpoint], "hooks": list(hooks)}
    )


def ask(server: OpenAIServer, suite: Suite, work: Path, links: Chain, **options: Any) -> Asked:
    async def run() -> Asked:
        async with server.running():
            where = endpoint(server, **options.pop("endpoint", {}))
            if "url" in options:  # the same address in every run, as a real endpoint has
                where = where.model_copy(update={"url": options.pop("url")})
            return await ask_suite(suite, where, lane="raw", run_id="r", work=work, chain=links, **options)

    return asyncio.run(run())


def test_requests_reach_the_server_amended(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, api_key="sk-12345678")
    links = chain(
        ("system_message", {"system_message": "Be brief."}),
        (
            "payload_modifier",
            {"params_to_add": {"top_k": 3}, "params_to_remove": ["seed"], "headers_to_add": {"X-L": "b"}},
        ),
    )
    report, _ = ask(server, quality(3), tmp_path, links, api_key="sk-12345678")
    assert report.n_unscored == 0
    for body, headers in zip(server.bodies, server.headers, strict=True):
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (body["top_k"], "seed" in body, headers["X-L"]) == (3, False, "b")
    assert report.adapter["answers"] == 3


def test_the_second_run_is_answered_from_the_cache_with_the_original_usage(tmp_path: Path) -> None:
    links = chain(("caching", {"cache_dir": str(tmp_path / "cache"), "reuse_cached_responses": True}))
    store = ScoreStore(tmp_path / "scores")
    with OpenAIServer(answer=echo).in_thread() as server:
        where = endpoint(server)

        def run(work: str, run_id: str = "r", **changes: Any) -> Asked:
            changed = where.model_copy(update=changes)
            return asyncio.run(
                ask_suite(
                    quality(4), changed, lane="raw", run_id=run_id, work=tmp_path / work, chain=links, land=store.land
                )
            )

        first, rows = run("a", "one")
        again, hits = run("b", "two")
        assert len(server.bodies) == 4
        assert [r["tokens_out"] for r in hits] == [r["tokens_out"] for r in rows]
        assert [r["score"] for r in hits] == [1.0] * 4
        assert {r["cache_hit"] for r in hits} == {1}
        assert {r["latency_ms"] for r in hits} == {None}
        assert again.adapter["cache_hits"] == 4
        assert again.instrument == first.instrument
        assert store.query("select count(*), sum(cache_hit) from samples")[1] == [(8, 4)]
        run("c", engine_version="2")
        assert len(server.bodies) == 8, "another engine gives other answers"


def test_epochs_of_one_sample_are_not_one_cached_answer(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo)
    suite = quality(2, sampling={"epochs": 2, "seed": None})
    report, rows = ask(server, suite, tmp_path, chain(("caching", {"reuse_cached_responses": True})))
    assert (len(server.bodies), sum(r["cache_hit"] for r in rows), report.n_samples) == (4, 0, 4)


def test_a_damaged_cache_file_is_asked_again(tmp_path: Path) -> None:
    links = chain(("caching", {"cache_dir": str(tmp_path / "cache"), "reuse_cached_responses": True}))
    with OpenAIServer(answer=echo).in_thread() as server:
        for damage in (None, "{", "[]", '{"key": "x"}'):
            for file in (tmp_path / "cache").glob("*/*.json"):
                file.write_text(damage or "")
            asyncio.run(ask_suite(quality(1), endpoint(server), lane="raw", run_id="r", work=tmp_path, chain=links))
        assert len(server.bodies) == 4


def test_failures_are_not_cached(tmp_path: Path) -> None:
    server = OpenAIServer(answer=echo, fault="empty_choices", faulty=1)
    suite = quality(2, requests={"concurrency": 1})
    links = chain(("caching", {"cache_dir": str(tmp_path / "cache"), "reuse_cached_responses": True}))
    ask(server, suite, tmp_path, links)
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 1


def test_logs_are_limited_redacted_and_private(tmp_path: Path) -> None:
    server = OpenAIServer(answer=lambda body: "your key is sk-live-12345678", api_key="sk-live-12345678")
    links = chain(
        ("request_logging", {"max_requests": 2, "output_dir": str(tmp_path / "logs")}),
        ("endpoint", {}),
        ("response_logging", {"max_responses": 1, "output_dir": str(tmp_path / "logs")}),
    )
    ask(server, quality(5), tmp_path, links, api_key="sk-live-12345678")
    files = {p.name: p for p in (tmp_path / "logs").iterdir()}
    assert set(files) == {"quality-requests.jsonl", "quality-responses.jsonl"}
    requests = [json.loads(line) for line in files["quality-requests.jsonl"].read_text().splitlines()]
    assert len(requests) == 2
    assert requests[0]["headers"]["Authorization"] == "[redacted]"
    assert requests[0]["body"]["max_tokens"] == 64
    (answer,) = files["quality-responses.jsonl"].read_text().splitlines()
    assert json.loads(answer)["text"] == "your key is [redacted]"
    assert {p.stat().st_mode & 0o777 for p in files.values()} == {0o600}


def test_statistics_and_the_report_are_written(tmp_path: Path) -> None:
    server = OpenAIServer(answer=lambda body: f"<think>hm</think>{echo(body)}")
    hook = {"name": "post_eval_report", "config": {"report_types": ["html", "json"], "html_report_size": 2}}
    folder = str(tmp_path / "cache")
    links = chain(
        ("caching", {"cache_dir": folder, "save_requests": True, "save_responses": True, "max_saved_requests": 5}),
        ("endpoint", {}), ("response_stats", {"cache_dir": folder}), ("reasoning", {"cache_dir": folder}), hooks=[hook],
    )  # fmt: skip
    report, rows = ask(server, quality(4), tmp_path, links)
    stats = json.loads((tmp_path / "cache" / "quality-response_stats.json").read_text())
    assert (stats["answers"], stats["finish_reasons"], stats["cache_hits"]) == (4, {"stop": 4}, 0)
    assert stats["tokens"]["out_new"] == sum(r["tokens_out"] for r in rows)
    reasoning = json.loads((tmp_path / "cache" / "quality-reasoning_stats.json").read_text())
    assert (reasoning["finished"], reasoning["unfinished"], reasoning["reasoning_words"]) == (4, 0, 4)
    assert report.adapter["reasoning"] == reasoning
    shown = json.loads((tmp_path / "cache" / "quality-report.json").read_text())
    assert len(shown["pairs"]) == 2
    assert "&lt;think&gt;" in (tmp_path / "cache" / "quality-report.html").read_text()
    assert not list((tmp_path / "cache").glob("??"))


def test_unfinished_reasoning_is_truncated_and_never_wrong(tmp_path: Path) -> None:
    server = OpenAIServer(answer=lambda body: "[T] hm, word1?" if "word1" in str(body) else echo(body))
    links = chain(("endpoint", {}), ("reasoning", {"start_reasoning_token": "[T]", "end_reasoning_token": "[/T]"}))
    report, rows = ask(server, quality(3), tmp_path, links)
    assert [(r["outcome_class"], r["score"]) for r in rows] == [("correct", 1.0), ("truncated", None), ("correct", 1.0)]
    assert report.adapter["reasoning"]["unfinished"] == 1


@asynccontextmanager
async def receiver(seen: list[tuple[str, int]], status: int = 200) -> Any:
    async def take(request: web.Request) -> web.Response:
        seen.append((request.method, (await request.json())["samples_processed"]))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("*", "/progress", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/progress"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [200, 500])
def test_progress_is_told_and_its_receiver_cannot_hurt(status: int, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    async def run() -> SuiteReport:
        server = OpenAIServer(answer=echo, first_token_s=0.02)
        async with server.running(), receiver(seen, status) as url:
            settings = {"progress_tracking_url": url, "progress_tracking_interval": 2, "request_method": "POST"}
            links = chain(("endpoint", {}), ("progress_tracking", settings))
            suite = quality(8, requests={"concurrency": 1})
            report, _ = await ask_suite(suite, endpoint(server), lane="raw", run_id="r", work=tmp_path, chain=links)
            return report

    assert asyncio.run(run()).n_unscored == 0
    assert seen[-1] == ("POST", 8)
    assert [n for _, n in seen] == sorted(n for _, n in seen)
    assert 2 <= len(seen) <= 5


def test_a_receiver_that_is_not_there_is_no_matter(tmp_path: Path) -> None:
    links = chain(("endpoint", {}), ("progress_tracking", {"progress_tracking_url": "http://127.0.0.1:9/"}))
    assert ask(OpenAIServer(answer=echo), quality(2), tmp_path, links)[0].n_unscored == 0


def test_a_client_error_ends_the_suite_when_the_chain_says_so(tmp_path: Path) -> None:
    limits = {"concurrency": 1, "give_up_after": 50}
    suite = quality(30, requests=limits)
    links = chain(("endpoint", {}), ("raise_client_errors", {}))
    with pytest.raises(EvaluationFailed, match="max_tokens must be at least 1") as failed:
        broken = chain(
            ("payload_modifier", {"params_to_add": {"max_tokens": -1}}), ("endpoint", {}), ("raise_client_errors", {})
        )
        server = OpenAIServer(answer=echo)
        ask(server, suite, tmp_path, broken)
    assert "not asked" in failed.value.sentence
    assert len(server.bodies) == 1
    limited = OpenAIServer(answer=echo, fault="rate_limited", faulty=1)
    report, _ = ask(limited, suite, tmp_path, links)
    assert report.n_unscored == 0, "429 is not such an error"


def test_a_contract_suite_keeps_payload_and_headers_and_nothing_else(tmp_path: Path) -> None:
    server = OpenAIServer(answer=lambda body: "It is a fine answer to that, I think.")
    contract = Suite(
        spec=SuiteSpec.model_validate({"name": "contract", "kind": "contract", "title": "C", "contract": {}})
    )
    links = chain(
        ("system_message", {"system_message": "Be kind."}), ("payload_modifier", {"headers_to_add": {"X-L": "b"}}),
        ("caching", {"reuse_cached_responses": True}),
    )  # fmt: skip
    ask(server, contract, tmp_path, links)
    assert {h["X-L"] for h in server.headers} == {"b"}
    assert "Be kind." not in str(server.bodies)
    assert len([b for b in server.bodies if "Say 1." in str(b)]) == 1
    assert not (tmp_path / "answers").exists()


def test_the_chain_is_part_of_the_instrument_where_it_changes_answers(tmp_path: Path) -> None:
    def instrument(*links: tuple[str, dict[str, Any]]) -> str:
        return ask(OpenAIServer(answer=echo), quality(1), tmp_path, chain(*links))[0].instrument

    plain = instrument()
    assert instrument(("request_logging", {"output_dir": str(tmp_path)})) == plain
    assert instrument(("system_message", {"system_message": "x"})) != plain
