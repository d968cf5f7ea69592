"""A decision from real answers, landed as in production, comes out of the stored samples again."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelops_dagster.clients.gauntlet.runner import ask_suite, run_suite
from modelops_dagster.clients.incumbents import find_incumbent, gather_arms
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, IntegrityError, InvalidSpec, ModelOpsError, NotRunning
from modelops_dagster.domain.gateway import Route, RouteTarget
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from modelops_dagster.domain.policies import Policy
from modelops_dagster.domain.verdicts import Verdict, judge
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.clients.score_rows import verdict as old_verdict
from tests.clients.test_beside import old
from tests.fakes.openai_server import OpenAIServer, last_user

POLICY = Policy.model_validate(
    {
        "name": "test", "version": 1, "description": "for tests",
        "criteria": [{"suite": "quality", "metric": "accuracy", "min": 0.5, "bound": "ci_low", "when": "no_incumbent"}],
        "against_incumbent": [{"suite": "quality", "margin": 0.3}],
    }
)  # fmt: skip


def knows(every: int) -> OpenAIServer:
    """A model that is wrong about every n-th question."""
    return OpenAIServer(
        answer=lambda b: "no idea" if int(last_user(b).removeprefix("Say word")) % every == 0 else echo(b)
    )


def decided(store: ScoreStore, work: Path, new: OpenAIServer, incumbent: OpenAIServer) -> Verdict:
    async def run() -> SuiteReport:
        async with new.running(), incumbent.running():
            report, _ = await ask_suite(
                quality(60),
                endpoint(new),
                lane="raw",
                run_id="run-1",
                work=work,
                land=store.land,
                beside=old(incumbent),
            )
            return report

    return landed(store, [asyncio.run(run())], POLICY)


def landed(store: ScoreStore, reports: list[SuiteReport], policy: Policy) -> Verdict:
    now = datetime.now(UTC)
    arms, note = gather_arms(store, policy, reports, None, now)
    revision = reports[0].endpoint.checkpoint.revision
    found = judge(
        policy, reports, repo_id=revision.repo_id, commit_hash=revision.commit_hash, lane="raw",
        endpoint=reports[0].endpoint.name, decided_at=now, arms=arms, incumbent_note=note, closes_at=now,
    )  # fmt: skip
    store.land_verdict(found, run_id="run-1")
    return found


def test_a_decision_comes_out_of_the_stored_samples_again(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    found = decided(store, tmp_path, knows(5), knows(7))
    assert found.comparisons[0].n == 60
    assert found.outcome == "pass", found.reason
    stored, again, mismatches = replay(store, found.verdict_id)
    assert mismatches == []
    assert stored == found
    assert again.model_dump() == found.model_dump()
    store.publish()
    assert replay(store, found.verdict_id)[2] == []


def test_a_model_against_itself_never_fails_and_a_damaged_one_does(tmp_path: Path) -> None:
    same = decided(ScoreStore(tmp_path / "a"), tmp_path, knows(4), knows(4))
    assert same.outcome in ("pass", "hold")
    store = ScoreStore(tmp_path / "b")
    damaged = decided(store, tmp_path, OpenAIServer(answer=lambda body: "zxqv"), knows(4))
    assert damaged.outcome == "fail"
    assert damaged.comparisons[0].stopped_at is not None
    assert replay(store, damaged.verdict_id)[2] == []


def test_a_changed_sample_is_found(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    found = decided(store, tmp_path, knows(5), knows(7))
    path = next(p for p in (tmp_path / "scores" / "landing" / "samples").rglob("*candidate*.parquet"))
    body = pq.read_table(path).to_pylist()
    next(row for row in body if row["score"] == 1.0)["score"] = 0.0
    store.land("samples", body, repo_id="org/model", run_id="run-1")
    names = {m.what for m in replay(store, found.verdict_id)[2]}
    assert "quality.accuracy value" in names
    assert "quality.score_vs_incumbent difference" in names


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    with pytest.raises(InvalidSpec, match="there is no verdict 'feed'"):
        replay(store, "feed")
    store.land_verdict(old_verdict(), run_id="r0")
    with pytest.raises(InvalidSpec, match="before decisions kept their policy"):
        replay(store, "0123456789abcdef")
    found = decided(store, tmp_path, knows(5), knows(7))
    for path in (tmp_path / "scores" / "landing" / "samples").rglob("*incumbent*.parquet"):
        path.unlink()
    with pytest.raises(IntegrityError, match="are gone"):
        replay(store, found.verdict_id)


def test_contract_and_load_are_computed_again_too(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    load = {"concurrencies": [1, 2], "requests": 4, "output_tokens": 8, "max_lag_ms": 1000}
    specs = [
        {"name": "contract", "kind": "contract", "title": "C", "contract": {"burst": 2}},
        {"name": "performance", "kind": "performance", "title": "P", "performance": load},
    ]
    server = OpenAIServer(token_s=0.002)
    with server.in_thread():
        reports = [
            run_suite(
                Suite(spec=SuiteSpec.model_validate(spec)), endpoint(server), lane="raw", run_id="run-1", work=tmp_path,
                land=store.land,
            )
            for spec in specs
        ]  # fmt: skip
    wants = {
        "name": "p", "version": 1, "description": "d",
        "criteria": [
            {"suite": "contract", "metric": "pass_rate", "min": 0.5},
            {"suite": "performance", "metric": "ttft_p95_ms@1", "max": 60000},
        ],
    }  # fmt: skip
    found = landed(store, reports, Policy.model_validate(wants))
    assert replay(store, found.verdict_id)[2] == []
    path = next((tmp_path / "scores" / "landing" / "perf_requests").rglob("*.parquet"))
    slower = [row | {"ttft_ms": 900.0} for row in pq.read_table(path).to_pylist()]
    store.land("perf_requests", slower, repo_id="org/model", run_id="run-1")
    assert "performance.ttft_p95_ms@1 value" in {m.what for m in replay(store, found.verdict_id)[2]}


# -- finding the incumbent --------------------------------------------------------------------------------------------


def target(name: str, **changes: object) -> RouteTarget:
    return RouteTarget.model_validate(
        {"endpoint": name, "url": "http://127.0.0.1:1/v1", "served_model_name": "m", "commit_hash": "b" * 40, **changes}
    )


def routed(root: Path, *targets: RouteTarget) -> RouteStore:
    routes = RouteStore(root)
    routes.put(Route(alias="org/model", targets=targets, updated_at=datetime.now(UTC)), 0)
    return routes


def status(state: EndpointState, url: str | None = "http://127.0.0.1:2/v1") -> EndpointStatus:
    spec = EndpointSpec(
        name="org-model-raw-bbbbbbbb", checkpoint="/c", checkpoint_digest="sha256:b", engine="vllm-cpu",
        served_model_name="served",
    )  # fmt: skip
    return EndpointStatus(
        spec=spec, desired="Running", state=state, url=url, since=datetime.now(UTC), engine_version="9"
    )


@dataclass
class Controlled:
    """A controller that says how the endpoint stands, and how it stands once it was started."""

    stands: EndpointStatus | ModelOpsError | None
    started: EndpointStatus | ModelOpsError | None = None
    starts: list[str] = field(default_factory=list)

    def get(self, name: str) -> EndpointStatus | None:
        return said(self.stands)

    def start(self, name: str) -> EndpointStatus:
        self.starts.append(name)
        assert isinstance(self.stands, EndpointStatus)
        return self.stands

    def wait_ready(self, name: str, timeout_s: float, *, queue_limit_s: float) -> EndpointStatus:
        found = said(self.started)
        assert found is not None
        return found


def said(what: EndpointStatus | ModelOpsError | None) -> EndpointStatus | None:
    if isinstance(what, ModelOpsError):
        raise what
    return what


def test_the_incumbent_is_what_users_are_answered_by(tmp_path: Path) -> None:
    candidate = endpoint(OpenAIServer())
    shadow, preview = target("s", tags=("shadow",), weight=9), target("p", tags=("preview",), weight=5)
    stable, canary = target("org-model-raw-bbbbbbbb", weight=95), target("c", weight=5)
    routes = routed(tmp_path / "a", shadow, preview, canary, stable, target(candidate.name, weight=100))
    runs = Controlled(status(EndpointState.RUNNING))
    found = find_incumbent(routes, runs, candidate, POLICY)
    assert found.beside is not None
    assert (found.beside.endpoint.name, found.beside.lane) == ("org-model-raw-bbbbbbbb", "raw")
    assert (found.beside.endpoint.served_model_name, found.beside.endpoint.engine_version) == ("served", "9")
    assert find_incumbent(routed(tmp_path / "b", shadow, preview), runs, candidate, POLICY).target == preview
    assert runs.starts == []


def test_an_incumbent_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    candidate = endpoint(OpenAIServer())
    routes = routed(tmp_path, target("gone"))
    nobody = Controlled(NotRunning("the controller does not answer."))
    cases = [
        (Controlled(None), "the incumbent gone is gone"),
        (Controlled(status(EndpointState.STOPPED, None)), "the incumbent gone is Stopped"),
        (nobody, "the controller cannot say whether the incumbent gone runs"),
    ]
    for controller, words in cases:
        found = find_incumbent(routes, controller, candidate, POLICY)
        assert (found.beside, found.note, controller.starts) == (None, words, [])
    assert "serves no other endpoint" in find_incumbent(RouteStore(tmp_path / "x"), nobody, candidate, POLICY).note


def test_an_incumbent_that_sleeps_is_woken(tmp_path: Path) -> None:
    candidate = endpoint(OpenAIServer())
    routes = routed(tmp_path, target("sleeper"))
    asleep = status(EndpointState.SLEEPING, None)
    wakes = Controlled(asleep, status(EndpointState.RUNNING, "http://127.0.0.1:7/v1"))
    found = find_incumbent(routes, wakes, candidate, POLICY)
    assert found.beside is not None
    assert (found.beside.endpoint.url, wakes.starts) == ("http://127.0.0.1:7/v1", ["sleeper"])
    late = Controlled(asleep, EndpointFailed("Endpoint sleeper is not ready after 900 s."))
    found = find_incumbent(routes, late, candidate, POLICY)
    assert found.beside is None
    assert found.note == "the incumbent slept and did not wake: Endpoint sleeper is not ready after 900 s."
    fails = Controlled(asleep, status(EndpointState.RUNTIME_ERROR, None))
    assert find_incumbent(routes, fails, candidate, POLICY).note == "the incumbent sleeper is RuntimeError"


def test_stored_answers_stand_in_if_they_are_recent_and_of_this_instrument(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    server = knows(6)
    with server.in_thread():
        run_suite(quality(60), old(server).endpoint, lane="raw", run_id="run-0", work=tmp_path, land=store.land)
        report = run_suite(quality(60), endpoint(server), lane="raw", run_id="run-1", work=tmp_path, land=store.land)
        other = run_suite(quality(59), endpoint(server), lane="raw", run_id="run-2", work=tmp_path, land=store.land)
    now, stored = datetime.now(UTC), target("org-model-old")
    arms, _ = gather_arms(store, POLICY, [report], stored, now)
    assert (arms["quality"].who.run_id, arms["quality"].who.interleaved) == ("run-0", False)
    found = judge(
        POLICY, [report], repo_id="org/model", commit_hash="a" * 40, lane="raw", endpoint="org-model", decided_at=now,
        arms=arms,
    )  # fmt: skip
    assert "stored answers of" in found.reason
    for reports, later in (([other], now), ([report], now + timedelta(days=8))):
        arms, note = gather_arms(store, POLICY, reports, stored, later)
        assert arms == {}
        assert "no answers of it on this instrument are younger than 7 days" in note


def test_the_instrument_is_told_part_by_part(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    server = knows(6)
    with server.in_thread():
        run_suite(quality(12), endpoint(server), lane="raw", run_id="run-1", work=tmp_path, land=store.land)
    (parts, build), *_ = store.query("select distinct instrument_parts, engine || engine_version from scores")[1]
    named = {"dataset", "prompts", "sampling", "scorers", "graders", "runner", "requests", "suite"}
    assert named <= set(json.loads(parts))
    assert json.loads(parts)["scorers"] == {"includes": 1}
    assert build == "fake1"
