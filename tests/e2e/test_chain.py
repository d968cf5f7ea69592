"""The whole chain under a running Dagster, with a fake engine so that it takes seconds."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet
import pytest
from openai import OpenAI

from modelops_dagster.clients.gauntlet.loading import load_suites
from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.watcher import WatchStore
from modelops_dagster.services.hub_server import publish
from tests.e2e.platform import Platform, left_behind, running_platform
from tests.e2e.scenery import prepared, write_engine, write_model

ORG = "acme"
HUB_TOKEN = "hf_a-token-that-nobody-may-find-again"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    publish(root, f"{ORG}/old", write_model(tmp_path_factory.mktemp("old"), tensor=b"old!" * 4))
    return root


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Iterator[Platform]:
    place = tmp_path_factory.mktemp("platform")
    engines = place / "engines"
    unknown = "Model architectures ['GrokForCausalLM'] are not supported for now."
    write_engine(
        place / "engines", "vllm-cpu", "--load-s", "1", "--child", "--fail-for", "unloadable", "--fail-line", unknown
    )
    write_engine(engines, "transformers")  # known and not installed
    environ = prepared(place) | {"MODELOPS_HUB_POLL_INTERVAL_S": "2", "HF_TOKEN": HUB_TOKEN}
    assert load_suites(place / "suites")
    with running_platform(place / "home", environ, "--hub-dir", str(hub), "--org", ORG) as running:
        deadline = time.monotonic() + 60
        while not any(t["cursor"] for t in running.dagster.last_ticks("hub_releases")):
            assert time.monotonic() < deadline, running.lines[-40:]
            time.sleep(0.3)
        yield running


def verdict_of(platform: Platform, repo_id: str) -> tuple[str, str]:
    verdict = latest_values(platform.home / "lineage", repo_id)["raw/verdict"]
    return verdict.outcome, verdict.commit_hash


def test_a_publication_leads_to_a_preview_route_with_no_other_action(platform: Platform, hub: Path, tmp_path: Path):
    repo_id = f"{ORG}/first"
    commit = publish(hub, repo_id, write_model(tmp_path, tensor=b"1111" * 4))
    run = platform.wait_for_run(repo_id)
    assert run.status == "SUCCESS", platform.lines[-60:]
    assert verdict_of(platform, repo_id) == ("pass", commit.commit_hash)
    route = RouteStore(platform.home / "gateway").get(repo_id)
    assert route is not None
    assert [t.tags for t in route.targets] == [("preview",)]
    created = platform.modelops("keys", "create", "--alias", "dev", "--tags", "preview", "--json")
    key = re.search(r"sk-mo-[\w-]+", created.stdout)
    assert key, created
    client = OpenAI(base_url=f"{platform.settings.gateway_url}/v1", api_key=key[0])
    answer = client.chat.completions.create(model=repo_id, messages=[{"role": "user", "content": "well?"}])
    assert "42" in (answer.choices[0].message.content or "")
    sql = "select first_seen_at <= requested_at as seen, hours >= hours_from_request as longer from time_to_preview"
    (told,) = json.loads(platform.modelops("scores", "--json", "--sql", sql).stdout)
    assert told == {"seen": True, "longer": True}, "counted from when the Watcher saw the commit"


def test_a_suite_is_asked_of_every_model_by_one_command(platform: Platform):
    """`modelops backfill` against the running daemon; again, it finds nothing left to do."""
    sql = "select run_id from scores where suite = 'quality' and repo_id = 'acme/first' order by evaluated_at desc"
    told = platform.modelops(
        "backfill", "--suite", "quality", "--models", f"{ORG}/first", "--again", "--wait", "--json"
    )
    done = json.loads(told.stdout)
    assert (done["status"], done["outcomes"]) == ("SUCCESS", {"evaluated": 1}), told.stderr
    newest = json.loads(platform.modelops("scores", "--json", "--sql", sql).stdout)[0]["run_id"]
    assert newest == done["run_id"]
    again = platform.modelops("backfill", "--suite", "quality", "--models", f"{ORG}/first", "--wait", "--json")
    assert json.loads(again.stdout)["outcomes"] == {}, again.stderr


def test_what_was_there_before_the_first_tick_is_not_a_release(platform: Platform):
    assert platform.dagster.runs(f"{ORG}/old") == []


def test_a_new_commit_replaces_the_route_and_stops_the_old_endpoint(platform: Platform, hub: Path, tmp_path: Path):
    repo_id = f"{ORG}/twice"
    replaced = publish(hub, repo_id, write_model(tmp_path / "a", tensor=b"aaaa" * 4))
    first = platform.wait_for_run(repo_id)
    assert first.status == "SUCCESS"
    commit = publish(hub, repo_id, write_model(tmp_path / "b", tensor=b"bbbb" * 4))
    second = platform.wait_for_run(repo_id, known=frozenset({first.run_id}))
    assert second.status == "SUCCESS"
    route = RouteStore(platform.home / "gateway").get(repo_id)
    assert route is not None
    assert [t.commit_hash for t in route.targets] == [commit.commit_hash]
    listed = platform.modelops("endpoints", "list", "--json").stdout
    assert listed.count('"desired": "Stopped"') >= 1, listed
    rows = platform.modelops(
        "scores", "--json", "--sql", f"select distinct commit_hash from scores where repo_id = '{repo_id}'"
    )
    assert rows.stdout.count(":") >= 2, rows
    shown = json.loads(platform.modelops("models", "show", repo_id, "--json").stdout)["compared_with_previous"]["raw"]
    assert (shown["commit_hash"], shown["previous_commit"]) == (commit.commit_hash, replaced.commit_hash)
    assert shown["refused"] == []
    accuracy = next(c for c in shown["changes"] if (c["suite"], c["metric"]) == ("quality", "accuracy"))
    assert (accuracy["before"], accuracy["now"], accuracy["difference"]) == (1.0, 1.0, 0.0)
    assert verdict_page(platform, repo_id)["previous_commit"] == replaced.commit_hash
    assert "the revision before" in platform.modelops("models", "show", repo_id).stdout
    verdict = latest_values(platform.home / "lineage", repo_id)["raw/verdict"]
    incumbent = verdict.comparisons[0].incumbent
    assert (incumbent.commit_hash, incumbent.interleaved) == (replaced.commit_hash, True)
    again = platform.modelops("verdict", "replay", verdict.verdict_id)
    assert again.returncode == 0, again


def verdict_page(platform: Platform, repo_id: str) -> dict[str, str | None]:
    """What the UI shows at the latest verdict: label -> text, where there is one."""
    query = """query($partition: String!) { assetOrError(assetKey: {path: ["raw", "verdict"]}) { ... on Asset {
      assetMaterializations(partitions: [$partition], limit: 1) { metadataEntries { label
        ... on TextMetadataEntry { text } } } } } }"""
    answer = httpx.post(
        f"{platform.settings.dagster_url}/graphql", json={"query": query, "variables": {"partition": repo_id}}
    ).json()
    entries = answer["data"]["assetOrError"]["assetMaterializations"][0]["metadataEntries"]
    return {e["label"]: e.get("text") for e in entries}


def test_a_new_readme_triggers_nothing_and_a_deletion_withdraws_the_route(
    platform: Platform, hub: Path, tmp_path: Path
):
    repo_id = f"{ORG}/recalled"
    source = write_model(tmp_path / "model", tensor=b"5555" * 4)
    publish(hub, repo_id, source)
    assert platform.wait_for_run(repo_id).status == "SUCCESS"
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\nNow with a text.\n")
    commit = publish(hub, repo_id, source)
    wait_until(lambda: commit.commit_hash in references(platform), platform)
    assert len(platform.dagster.runs(repo_id)) == 1
    routes = RouteStore(platform.home / "gateway")
    assert routes.get(repo_id) is not None
    (hub / repo_id).rename(tmp_path / "recalled")
    wait_until(lambda: routes.get(repo_id) is None and engines_of(platform, repo_id) == 0, platform)
    assert len(routes.history(repo_id)) == 2
    assert len(platform.dagster.runs(repo_id)) == 1


def references(platform: Platform) -> set[str]:
    """The commits that the Watcher compares the next ones with."""
    record = WatchStore(platform.home / "watcher").record(ORG)
    return {r.reference for r in record.state.repos.values()} if record is not None else set()


def wait_until(happened: Callable[[], bool], platform: Platform, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, platform.lines[-40:]
        time.sleep(0.2)


@pytest.mark.parametrize("step", ["release", "raw_weights", "raw__endpoint", "raw__gauntlet", "raw__verdict"])
def test_a_run_killed_at_any_asset_ends_in_the_same_verdict(platform: Platform, hub: Path, tmp_path: Path, step: str):
    repo_id = f"{ORG}/killed-{step.replace('__', '-')}"
    commit = publish(hub, repo_id, write_model(tmp_path, tensor=step.ljust(16)[:16].encode()))
    run_id = kill_at(platform, repo_id, step)
    state = platform.dagster.follow(run_id, lambda event: None, timeout_s=240)
    if state.status != "SUCCESS":  # killed before Dagster could note that it will try again
        done = platform.modelops("onboard", repo_id, "--wait")
        assert done.returncode == 0, done
    assert verdict_of(platform, repo_id) == ("pass", commit.commit_hash)
    assert engines_of(platform, repo_id) == 1


def kill_at(platform: Platform, repo_id: str, step: str) -> str:
    """kill -9 the run's process as soon as the step has started; returns the run id."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for run in platform.dagster.runs(repo_id):
            events, _ = platform.dagster.events(run.run_id)
            started = any(e.kind == "ExecutionStepStartEvent" and e.step == step for e in events)
            if started and (pids := platform.pids(run.run_id)):
                os.kill(pids[-1], signal.SIGKILL)
                return run.run_id
        time.sleep(0.05)
    raise AssertionError(f"step {step} of {repo_id} never started")


def engines_of(platform: Platform, repo_id: str) -> int:
    """How many engine processes (parents) serve the model now."""
    count = 0
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "fakes/engine.py" in line and f"{repo_id}@" in line and "--worker" not in line:
            count += 1
    return count


def test_bad_input_ends_in_one_sentence(platform: Platform, hub: Path, tmp_path: Path):
    write_model(hub / ORG / "gated", tensor=b"gate" * 4)
    (hub / ORG / "gated.hub.json").write_text('{"gated": "manual"}')
    pickled = write_model(hub / ORG / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    grid = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    shape = {"hidden_size": 576, "num_attention_heads": 9, "num_hidden_layers": 30}
    write_model(hub / ORG / "misfit", tensor=b"misf" * 4, quantization_config=grid, **shape)
    cases = {
        "no slash": ("not a repository id", ""),
        f"{ORG}/nothing-here": ("nothing-here", ""),
        f"{ORG}/gated": ("HF_TOKEN", "release: "),
        f"{ORG}/pickled": ("safetensors", "release: "),
        f"{ORG}/misfit": ("576 is no multiple of the block size 128", "release: "),
    }
    for repo_id, (words, step) in cases.items():
        done = platform.modelops("onboard", repo_id, "--wait")
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 2, done
        assert words in last, done.stderr
        assert "Traceback" not in done.stderr
        assert last.startswith(f"modelops: {step}"), last  # nothing was fetched for it
        assert bool(platform.dagster.runs(repo_id)) == bool(step), "what cannot be a release starts no run"
    shown = platform.modelops("models", "show", f"{ORG}/misfit")
    assert "was stopped before any weight was fetched" in shown.stdout, shown


def test_who_waits_sees_the_weights_come(platform: Platform, hub: Path, tmp_path: Path):
    publish(hub, "unwatched/model", write_model(tmp_path, tensor=b"6666" * 4))
    done = platform.modelops("onboard", "unwatched/model", "--wait")
    assert done.returncode == 0, done
    assert re.search(r"raw_weights: fetched \d+ of \d+ bytes \(100 %\)", done.stderr), done.stderr


def test_a_model_no_rung_can_load_is_parked_with_every_reason(platform: Platform, hub: Path, tmp_path: Path):
    repo_id = f"{ORG}/unloadable"
    publish(hub, repo_id, write_model(tmp_path, architectures=["GrokForCausalLM"]))
    assert platform.wait_for_run(repo_id).status == "FAILURE"
    done = platform.modelops("onboard", repo_id, "--wait")
    sentence = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2
    assert "parked" in sentence
    assert "vllm-cpu: unsupported_architecture" in sentence
    assert "transformers: engine_missing" in sentence
    assert engines_of(platform, repo_id) == 0


def test_the_ui_and_the_cli_tell_the_same(platform: Platform):
    page = httpx.get(f"{platform.settings.dagster_url}/assets")
    assert page.status_code == 200
    listed = json.loads(platform.modelops("models", "list", "--json").stdout)
    assert listed, "every test before this one has onboarded a model"
    one = platform.modelops("models", "show", listed[0]["repo_id"])
    assert one.returncode == 0, one
    assert "raw/verdict" in one.stdout


def test_no_key_that_was_used_is_in_any_file_or_log_line(platform: Platform):
    home = platform.home
    created = platform.modelops("keys", "create", "--alias", "searched-for", "--tags", "preview", "--json")
    found = re.search(r"sk-mo-[\w-]+", created.stdout)
    assert found, created
    listed = json.loads(platform.modelops("models", "list", "--json").stdout)
    client = OpenAI(base_url=f"{platform.settings.gateway_url}/v1", api_key=found[0])
    served = next(m["repo_id"] for m in listed if m["tags"] == "preview")
    assert client.chat.completions.create(model=served, messages=[{"role": "user", "content": "well?"}]).choices
    kept = {path: path.read_text().strip() for path in (home / "secrets").rglob("*") if path.is_file()}
    assert {p.name for p in kept} >= {"controller.token", "gateway_operator_key"}
    keys = {found[0], HUB_TOKEN, *(text for text in kept.values() if len(text) > 15 and not text.startswith("{"))}
    time.sleep(2)  # the call log is written
    assert not [line for line in platform.lines if any(key in line for key in keys)]
    searched = 0
    for path in home.rglob("*"):
        if path.is_file() and path not in kept:
            content = path.read_bytes()
            if path.suffix == ".parquet":  # compressed, so that a key would not be seen in the bytes
                content += str(pyarrow.parquet.read_table(path).to_pylist()).encode()
            assert not [key for key in keys if key.encode() in content], path
            searched += 1
    assert searched > 30, "routes, calls, scores, lineage, Dagster's own"


def test_ctrl_c_stops_everything_and_the_next_start_brings_it_back(platform: Platform):
    judged = json.loads(platform.modelops("models", "list", "--json").stdout)[0]
    repo_id, endpoint = judged["repo_id"], judged["endpoint"]
    assert platform.stop() == 0, platform.lines[-20:]
    assert left_behind(platform.home) == []
    platform.start()
    deadline = time.monotonic() + 60
    while engines_of(platform, repo_id) != 1:
        assert time.monotonic() < deadline, platform.modelops("endpoints", "list").stdout
        time.sleep(0.5)
    assert endpoint in platform.modelops("endpoints", "list", "--json").stdout


def test_a_killed_up_leaves_nothing_for_the_next_one_to_trip_over(platform: Platform):
    assert platform.process is not None
    os.kill(platform.process.pid, signal.SIGKILL)
    platform.process.wait()
    platform.start()
    listed = platform.modelops("endpoints", "list")
    assert listed.returncode == 0, listed
