"""Day 0 and day 2 under a running Dagster, with a fake engine and a fake quantizer so that it takes seconds."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.services.hub_server import publish
from tests.clients.quantizing import write_quantizer
from tests.e2e.platform import Platform, running_platform
from tests.e2e.scenery import prepared, write_engine, write_model

pytestmark = pytest.mark.slow
ORG = "acme"
SWAP = {"how": "canary", "steps": [50, 100], "hold_s": 1, "retain_s": 2}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Iterator[Platform]:
    place = tmp_path_factory.mktemp("platform")
    write_engine(place / "engines", "vllm-cpu")
    write_quantizer(place / "engines")
    environ = prepared(place, "vllm-cpu", "llmcompressor", swap=SWAP)
    with running_platform(place / "home", environ, "--hub-dir", str(hub)) as running:
        wait_until(lambda: any(t["cursor"] for t in running.dagster.last_ticks("quantized_lanes")), running)
        yield running


def wait_until(happened: Callable[[], bool], platform: Platform, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, platform.lines[-40:]
        time.sleep(0.5)


def onboard(platform: Platform, hub: Path, repo_id: str, folder: Path) -> str:
    """Day 0 by hand; returns the id of the day-2 run that followed by itself, once that has ended."""
    publish(hub, repo_id, write_model(folder, tensor=repo_id.ljust(32)[:32].encode()))
    done = platform.modelops("onboard", repo_id, "--wait")
    assert done.returncode == 0, done
    wait_until(lambda: len(platform.dagster.runs(repo_id)) == 2, platform)
    newest = platform.dagster.runs(repo_id)[0]
    assert (newest.tags["modelops/source"], newest.tags["dagster/priority"]) == ("day-2", "-5")
    wait_until(lambda: platform.is_ended(newest.run_id), platform)
    return newest.run_id


def test_the_lane_that_the_hardware_wants_follows_by_itself_and_takes_the_name_of_the_released_weights_over(
    platform: Platform, hub: Path, tmp_path: Path
):
    repo_id = f"{ORG}/plain"
    run = platform.dagster.run(onboard(platform, hub, repo_id, tmp_path))
    assert run is not None
    assert run.status == "SUCCESS", platform.lines[-60:]
    values = latest_values(platform.home / "lineage", repo_id)
    assert (values["raw/verdict"].outcome, values["int8/verdict"].outcome) == ("pass", "pass")
    assert values["int8/endpoint"].checkpoint.scheme == "W8A8"
    assert values["int8/endpoint"].checkpoint.derivation.source_digest == values["raw_weights"].digest
    routes = RouteStore(platform.home / "gateway")
    raw, copy = values["raw/endpoint"].name, values["int8/endpoint"].name
    swap = values["int8/gateway_registration"].swap
    assert swap.reason == f"{copy} takes the alias over, 50 -> 100 %"
    assert any(line.startswith(f"+ {copy}@") for line in swap.diff), swap
    wait_until(lambda: [t.endpoint for t in routes.list()[0].targets] == [copy], platform)
    served = {r.alias: [(t.endpoint, t.tags) for t in r.targets] for r in routes.list()}
    assert served == {repo_id: [(copy, ("preview",))], f"{repo_id}:int8": [(copy, ("preview",))]}
    told = [r.reason for r in routes.history(repo_id)]
    assert told[1:] == [
        f"swap to {copy}: 50 %, step 1 of 2",
        f"swap to {copy}: 100 %, step 2 of 2",
        f"swapped to {copy}",
        f"stopped {raw}",
    ]
    listed = json.loads(platform.modelops("endpoints", "list", "--json").stdout)["endpoints"]
    assert {e["spec"]["name"]: e["desired"] for e in listed} == {raw: "Stopped", copy: "Running"}
    assert platform.modelops("onboard", repo_id, "--lane", "int8", "--wait").returncode == 0
    again = latest_values(platform.home / "lineage", repo_id)["int8/gateway_registration"].swap
    assert again.reason == f"{copy} answers under the alias already"
    assert [t.endpoint for t in routes.list()[0].targets] == [copy]
    shown = platform.modelops("models", "show", repo_id).stdout
    for words in (
        "a CPU serves FP8 too slowly",
        "int8/recovery: pass",
        f"route {repo_id}:int8",
        "by int8 with",
        f"alias {repo_id}: {copy} answers",
    ):
        assert words in shown, shown
    listed = json.loads(platform.modelops("models", "list", "--json").stdout)
    assert {(m["lane"], m["tags"]) for m in listed} == {("raw", "preview"), ("int8", "preview")}


def test_a_copy_that_lost_too_much_gets_no_endpoint_and_the_released_weights_stay(
    platform: Platform, hub: Path, tmp_path: Path
):
    repo_id = f"{ORG}/lossy"
    run_id = onboard(platform, hub, repo_id, tmp_path)
    run = platform.dagster.run(run_id)
    assert run is not None
    assert run.status == "FAILURE"
    failures = [e.failure for e in platform.dagster.events(run_id)[0] if e.failure]
    assert any("is not served in W8A8: it does not load: RuntimeError" in str(f) for f in failures), failures
    values = latest_values(platform.home / "lineage", repo_id)
    assert values["int8/recovery"].outcome == "block"
    assert "int8/endpoint" not in values
    assert RouteStore(platform.home / "gateway").get(repo_id) is not None
    by_hand = platform.modelops("onboard", repo_id, "--lane", "int8", "--wait")
    assert by_hand.returncode == 2
    assert "is not served in W8A8" in by_hand.stderr.strip().splitlines()[-1]
