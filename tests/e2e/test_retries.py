"""A model that stands low for its architecture, a newer engine, and what people are told: under a running platform."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.services.hub_server import publish
from tests.e2e.platform import Platform, running_platform
from tests.e2e.scenery import install_engine, prepared, write_engine, write_model
from tests.fakes.alert_receivers import HttpReceiver
from tests.fakes.github import GitHub

ORG, VLLM = "acme", "vllm-project/vllm"
UNKNOWN = "Model architectures ['NovelForCausalLM'] are not supported for now."


@pytest.fixture(scope="module")
def github() -> Iterator[GitHub]:
    with GitHub().running() as server:
        server.publish(VLLM, "v1.0.0")
        yield server


@pytest.fixture(scope="module")
def hook() -> Iterator[HttpReceiver]:
    with HttpReceiver().running() as server:
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("platform")


@pytest.fixture(scope="module")
def platform(place: Path, github: GitHub, hook: HttpReceiver) -> Iterator[Platform]:
    write_engine(place / "engines", "vllm-cpu", "--fail-for", "novel", "--fail-line", UNKNOWN)
    write_engine(place / "engines", "transformers")
    publish(place / "hub", f"{ORG}/old", write_model(place / "old"))
    (place / "home").mkdir()
    channel = {"name": "hook", "type": "webhook", "url": hook.url}
    (place / "home" / "alerts.yaml").write_text(yaml.safe_dump({"channels": [channel]}))
    environ = prepared(place, "vllm-cpu", "transformers") | {
        "MODELOPS_HUB_POLL_INTERVAL_S": "2",
        "MODELOPS_FRAMEWORK_POLL_INTERVAL_S": "2",
        "MODELOPS_ALERT_POLL_INTERVAL_S": "1",
        "MODELOPS_FRAMEWORKS": VLLM,
        "MODELOPS_GITHUB_API_URL": github.url,
        "MODELOPS_GITHUB_URL": github.url,
    }
    with running_platform(place / "home", environ, "--hub-dir", str(place / "hub"), "--org", ORG) as running:
        quiet = {"hub_releases": "No new commit", "framework_releases": "No new release", "alerts": "0 events"}
        for sensor, words in quiet.items():  # each has its baseline then
            deadline = time.monotonic() + 90
            while not any(words in (t["skipReason"] or "") for t in running.dagster.last_ticks(sensor)):
                assert time.monotonic() < deadline, (sensor, running.lines[-40:])
                time.sleep(0.3)
        yield running


@pytest.mark.slow
def test_a_newer_engine_lifts_a_model_and_everybody_is_told(
    platform: Platform, place: Path, github: GitHub, hook: HttpReceiver, tmp_path: Path
):
    repo_id = f"{ORG}/novel"
    publish(place / "hub", repo_id, write_model(tmp_path, architectures=["NovelForCausalLM"]))
    first = platform.wait_for_run(repo_id)
    assert first.status == "SUCCESS", platform.lines[-60:]
    endpoint = latest_values(platform.home / "lineage", repo_id)["raw/endpoint"]
    assert (endpoint.rung, endpoint.ladder[0].reason) == ("transformers", "unsupported_architecture")

    github.publish(VLLM, "v1.1.0")  # announced and not installed: tried again, and the endpoint keeps its rung
    second = platform.wait_for_run(repo_id, known=frozenset({first.run_id}))
    assert second.status == "SUCCESS", platform.lines[-60:]
    assert (second.tags["dagster/priority"], second.tags["modelops/retry"]) == ("-5", f"{VLLM} 1.1.0")
    kept = latest_values(platform.home / "lineage", repo_id)["raw/endpoint"]
    assert (kept.rung, kept.ladder[0].reason, kept.url) == ("transformers", "unsupported_architecture", endpoint.url)

    shutil.rmtree(place / "engines" / "vllm-cpu")
    write_engine(place / "engines", "vllm-cpu")
    (place / "engines" / "vllm-cpu" / "requirements.lock").write_text("# a newer one\n")
    install_engine(place / "engines", place / "cache", "vllm-cpu")
    third = platform.wait_for_run(repo_id, known=frozenset({first.run_id, second.run_id}))
    assert third.status == "SUCCESS", platform.lines[-60:]
    assert third.tags["modelops/retry"].startswith("vllm-cpu 1.0+")
    assert latest_values(platform.home / "lineage", repo_id)["raw/endpoint"].rung == "vllm-cpu"
    route = RouteStore(platform.home / "gateway").get(repo_id)
    assert route is not None
    assert [t.tags for t in route.targets] == [("preview",)]

    wanted = [("new_release", "New: acme/novel"), ("framework_update", f"{VLLM} 1.1.0")]
    wanted += [("verdict", "PASS: acme/novel")] * 3
    deadline = time.monotonic() + 30
    while len(told := [(a["kind"], a["title"]) for r in hook.taken for a in r.json()["alerts"]]) < len(wanted):
        assert time.monotonic() < deadline, (told, platform.dagster.last_ticks("alerts"))
        time.sleep(0.5)
    assert sorted(told) == sorted(wanted)
    listed = platform.modelops("alerts", "list")
    assert "hook: sent" in listed.stdout, listed
