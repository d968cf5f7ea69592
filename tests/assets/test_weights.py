"""raw_weights and its check under a real Dagster instance, against a real Hub server."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.release import release
from modelops_dagster.assets.weights import raw_weights
from modelops_dagster.checks.weights import integrity
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import (
    CheckpointResource,
    ControllerResource,
    EngineResource,
    HubResource,
    PreflightResource,
)
from modelops_dagster.services.hub_server import HubServer, publish
from modelops_dagster.settings import Settings
from tests.e2e.scenery import install_engine, write_engine
from tests.fakes.hub import change_byte, downloads, noise, running_hub, write_repo
from tests.fakes.zoo import zoo

REPO_ID = "acme/one"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    (tmp_path / "hub").mkdir()
    with running_hub(tmp_path / "hub") as server:
        publish(server.root, REPO_ID, write_repo(tmp_path / "a", weights=noise(1_000_000)))
        yield server


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(models.name), [REPO_ID])
        yield instance


def onboard(
    hub: HubServer,
    home: Path,
    instance: dg.DagsterInstance,
    accept: tuple[str, ...] = ("no_engine",),  # there is none in this scene
) -> dg.ExecuteInProcessResult:
    resources = {
        "hub": HubResource(url=hub.url),
        "checkpoints": CheckpointResource(root=str(home / "checkpoints"), allow_list=str(home / "allow.yaml")),
        "preflight": PreflightResource(
            engines=str(home / "engines"),
            cache=str(home / "cache"),
            checkpoints=str(home / "checkpoints"),
            allow_list=str(home / "allow.yaml"),
            accelerator="cpu",
            max_context=2048,
            gpus="",
            sequences=1,
            licenses=[],
        ),
        "engines": EngineResource(
            engines=str(home / "engines"),
            cache=str(home / "cache"),
            accelerator="cpu",
            max_context=2048,
            min_tokens_per_second=1.0,
            rehearsal="on",
            rehearsals=str(home / "rehearsals"),
        ),
        "controller": ControllerResource(),
        "lineage": LineageResource(root=str(home / "lineage")),
        "io_manager": LineageIOManager(root=str(home / "lineage")),
    }
    job = dg.define_asset_job("fetch", selection="*")
    defs = dg.Definitions(assets=[release, raw_weights], asset_checks=[integrity], jobs=[job], resources=resources)
    found = defs.resolve_job_def("fetch")
    config = {"ops": {"release": {"config": {"accept": list(accept)}}}}
    return found.execute_in_process(instance=instance, partition_key=REPO_ID, raise_on_error=False, run_config=config)


def numbers(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """What of the asset's metadata becomes a plot."""
    metadata = result.asset_materializations_for_node("raw_weights")[0].metadata
    return {k: v.value for k, v in metadata.items() if isinstance(v, dg.IntMetadataValue | dg.FloatMetadataValue)}


def messages(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> str:
    return "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))


def test_what_a_fetch_took_is_plotted_and_told(hub: HubServer, instance: dg.DagsterInstance, tmp_path: Path):
    result = onboard(hub, tmp_path, instance)
    assert result.success
    plotted = numbers(result)
    assert plotted["fetched_bytes"] == plotted["size_bytes"]
    assert (plotted["reused_bytes"], plotted["repaired_files"]) == (0, 0)
    assert isinstance(plotted["seconds"], float)
    assert "fetched 1.0 of 1.0 MB (100 %)" in messages(result, instance)
    again = onboard(hub, tmp_path, instance)
    assert numbers(again)["fetched_bytes"] == 0
    assert all(e.passed for e in again.get_asset_check_evaluations())


def test_a_rehearsal_that_cannot_begin_is_told_and_holds_nothing_up(
    hub: HubServer, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    result = onboard(hub, tmp_path, instance)  # no controller runs in this scene
    assert result.success
    note = result.asset_materializations_for_node("raw_weights")[0].metadata["rehearsal_note"].value
    assert str(note).startswith("It could not begin: No controller has run for")
    kept = LineageResource(root=str(tmp_path / "lineage")).value("rehearsal", REPO_ID)
    assert kept == Rehearsal(revision=kept.revision, note=note)


@pytest.mark.slow
def test_a_rehearsal_is_held_beside_the_fetch_and_kept(
    hub: HubServer, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unsupported = "ValueError: Model architectures ['LlamaForCausalLM'] are not supported for now"
    made_up = {"made_up_weights_args": ["--load-s", "0"]}
    write_engine(tmp_path / "engines", "vllm-cpu", "--fail-line", unsupported, **made_up)
    write_engine(tmp_path / "engines", "transformers", **made_up)
    for name in ("vllm-cpu", "transformers"):
        install_engine(tmp_path / "engines", tmp_path / "cache", name)
    environ = {"MODELOPS_ENGINES": str(tmp_path / "engines"), "MODELOPS_CACHE": str(tmp_path / "cache")}
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 60_000.0  # a quarter of a minute
    with zoo(tmp_path / "controller", Settings.load({**environ, "MODELOPS_HOME": str(tmp_path)})) as place:
        monkeypatch.setenv("MODELOPS_HOME", str(tmp_path / "controller" / "home"))
        monkeypatch.setenv("MODELOPS_CONTROLLER_PORT", "0")
        result = onboard(hub, tmp_path, instance)
        assert place.client.list() == ()
    assert result.success
    kept = LineageResource(root=str(tmp_path / "lineage")).value("rehearsal", REPO_ID)
    assert [(r.rung, r.reason) for r in kept.results] == [
        ("vllm-cpu", "unsupported_architecture"),
        ("vllm-cpu:transformers-backend", "unsupported_architecture"),
        ("transformers", None),
    ], kept
    metadata = result.asset_materializations_for_node("raw_weights")[0].metadata
    assert (metadata["rehearsal_note"].value, len(metadata["rehearsal"].value.records)) == ("none", 3)
    assert "rehearsal: transformers: loads." in messages(result, instance)


def test_the_next_run_repairs_a_changed_byte(hub: HubServer, instance: dg.DagsterInstance, tmp_path: Path):
    assert onboard(hub, tmp_path, instance).success
    weights = next((tmp_path / "checkpoints").rglob("model.safetensors"))
    change_byte(weights)
    before = len(downloads(hub))
    repaired = onboard(hub, tmp_path, instance)
    assert repaired.success and all(e.passed for e in repaired.get_asset_check_evaluations())
    assert numbers(repaired)["repaired_files"] == 1
    fetched = [r for r in downloads(hub)[before:] if "model.safetensors" in r]
    assert len(fetched) == 1
    assert "model.safetensors was damaged, and is whole again" in messages(repaired, instance)


def test_code_that_nobody_allowed_fails_the_step_with_the_way_out(
    hub: HubServer, instance: dg.DagsterInstance, tmp_path: Path
):
    publish(hub.root, REPO_ID, write_repo(tmp_path / "b", config={"auto_map": {"AutoModel": "own.Model"}}))
    result = onboard(hub, tmp_path, instance)
    assert not result.success
    assert "modelops models allow acme/one@" in messages(result, instance) + str(
        [e.step_failure_data.user_failure_data for e in result.get_step_failure_events()]
    )


def test_a_release_that_is_blocked_leaves_a_red_check_and_no_materialization(
    hub: HubServer, tmp_path: Path, instance: dg.DagsterInstance
):
    result = onboard(hub, tmp_path / "home", instance, accept=())
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.partition) == ("preflight", False, REPO_ID)
    assert check.metadata["blocks"].value == 1
    assert "engine" in str(check.description)
    assert result.get_asset_materialization_events() == []
    passed = onboard(hub, tmp_path / "home", instance)
    assert {c.check_name: c.passed for c in passed.get_asset_check_evaluations()} == {
        "preflight": True,
        "integrity": True,
    }
