"""A backfill whose process is killed in its middle, under a running Dagster daemon that starts it again."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.scores import ScoreStore
from tests.e2e.platform import Platform, platform_without_models
from tests.e2e.scenery import fake_engine
from tests.e2e.served_models import endpoint_of, repo_id_of, serve_models

AWAKE, ASLEEP = (0, 1), (2, 3)
MODELS = len(AWAKE + ASLEEP)
DAEMON_S = 180.0


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Four models behind an engine so slow that a suite takes seconds; the endpoints of two of them are stopped."""
    environ = fake_engine(tmp_path, "--tokens-per-second", "1")
    with platform_without_models(tmp_path, environ) as running:
        serve_models(running, tmp_path, MODELS)
        client = ModelOpsClient.from_settings(running.settings)
        for number in ASLEEP:
            client.stop(endpoint_of(number))
            client.wait_stopped(endpoint_of(number))
        yield running


def until(happened: Callable[[], bool], platform: Platform) -> None:
    deadline = time.monotonic() + DAEMON_S
    while not happened():
        assert time.monotonic() < deadline, platform.lines[-40:]
        time.sleep(0.1)


def states(platform: Platform) -> list[str]:
    client = ModelOpsClient.from_settings(platform.settings)
    found = [client.get(endpoint_of(number)) for number in range(MODELS)]
    return [str(status.state) for status in found if status is not None]


def shown(platform: Platform, number: int) -> int:
    """How often the model's page shows a result."""
    query = """query($path: [String!]!, $model: String!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
      assetMaterializations(partitions: [$model]) { runId } } } }"""
    answer = platform.ask(query, path=["raw", "gauntlet", "quality"], model=repo_id_of(number))
    return len(answer["assetOrError"]["assetMaterializations"])


def kill_in_the_middle(platform: Platform) -> str:
    """kill -9 its process when those that ran are done and the first that slept is being asked; the run's id."""
    woken, journals = platform.home / "gauntlet" / "woken", platform.home / "gauntlet"
    until(lambda: any(woken.glob("*")) and any(p.stat().st_size for p in journals.glob("*.jsonl")), platform)
    query = "query($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs { results { runId } } } }"
    (run,) = platform.ask(query, job="backfill")["runsOrError"]["results"]
    run_id = str(run["runId"])
    os.kill(platform.pids(run_id)[-1], signal.SIGKILL)
    return run_id


@pytest.mark.slow
def test_what_was_killed_goes_on_by_itself_and_leaves_nothing_twice_and_nobody_awake(platform: Platform):
    command = ("backfill", "--suite", "quality", "--at-once", "1", "--wait", "--json")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(platform.modelops, *command)
        run_id = kill_in_the_middle(platform)
        told = json.loads(waiting.result().stdout)
    assert (told["status"], told["outcomes"]) == ("SUCCESS", {"evaluated": MODELS}), platform.lines[-40:]
    assert told["run_id"] != run_id, "the daemon started it again"
    store = ScoreStore(platform.home / "scores")
    outcomes = "select repo_id, outcome, run_id from backfills order by repo_id, ended_at"
    assert store.query(outcomes)[1] == [(repo_id_of(number), "evaluated", run_id) for number in range(MODELS)]
    once = (
        "select repo_id, count(distinct run_id), count(*), count(distinct item_uid) from samples group by 1 order by 1"
    )
    assert store.query(once)[1] == [(repo_id_of(number), 1, 3, 3) for number in range(MODELS)]
    accuracy = "select repo_id, count(*) from scores where metric = 'accuracy' group by 1 order by 1"
    assert store.query(accuracy)[1] == [(repo_id_of(number), 1) for number in range(MODELS)]
    assert [shown(platform, number) for number in range(MODELS)] == [1] * MODELS
    lineage = platform.home / "lineage" / "raw" / "gauntlet" / "quality"
    by_run = [
        sorted(p.stem for p in (lineage / repo_id_of(n).replace("/", "@")).glob("*-*.json")) for n in range(MODELS)
    ]
    assert by_run == [[run_id] if number in AWAKE else [told["run_id"]] for number in range(MODELS)]
    assert states(platform) == ["Running" if number in AWAKE else "Stopped" for number in range(MODELS)]
    assert not any((platform.home / "gauntlet" / "woken").iterdir())
    assert not list((platform.home / "gauntlet").glob("*.jsonl")), "no journal of an evaluation under way"
