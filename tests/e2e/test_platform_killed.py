"""`modelops up` killed with a run in progress: the next start fails that run, and it goes on where it stood."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.sensors.daemon import MESSAGE
from modelops_dagster.services.hub_server import HubServer, publish
from tests.e2e.platform import Platform, running_platform
from tests.e2e.scenery import fake_engine, write_model

REPO = "acme/half-fetched"
WEIGHTS = "model.safetensors"
DEADLINE_S = 300.0


@pytest.fixture
def platform(tmp_path: Path, hub: HubServer) -> Iterator[Platform]:
    """One that fetches from a Hub which outlives it."""
    with running_platform(tmp_path / "home", fake_engine(tmp_path), "--hub", hub.url) as running:
        yield running


def fetches(hub: HubServer) -> int:
    return sum(f"/{WEIGHTS}" in request for request in hub.faults.requests)


@pytest.mark.slow
def test_a_run_that_was_killed_with_the_platform_is_started_again_at_the_next_start(
    platform: Platform, hub: HubServer, tmp_path: Path
):
    commit = publish(hub.root, REPO, write_model(tmp_path / "model", tensor=bytes(8000)))
    hub.faults.only, hub.faults.bytes_per_s = WEIGHTS, 1.0  # it cannot end by itself before it is killed
    killed = json.loads(platform.modelops("onboard", REPO, "--json").stdout)["run_id"]
    deadline = time.monotonic() + DEADLINE_S
    while not fetches(hub):
        assert time.monotonic() < deadline, platform.lines[-40:]
        time.sleep(0.1)
    assert platform.process is not None
    platform.process.kill()
    platform.process.wait()
    platform.start()
    hub.faults.bytes_per_s = None
    ended = platform.wait_for_run(REPO, known=frozenset({killed}), timeout_s=DEADLINE_S)
    assert ended.status == "SUCCESS", platform.lines[-60:]
    first = platform.dagster.run(killed)
    assert first is not None and first.status == "FAILURE"
    assert MESSAGE in [event.message for event in platform.dagster.events(killed)[0]]
    verdict = latest_values(platform.home / "lineage", REPO)["raw/verdict"]
    assert (verdict.outcome, verdict.commit_hash) == ("pass", commit.commit_hash)
    assert [run.run_id for run in platform.dagster.runs(REPO)] == [ended.run_id, killed]
