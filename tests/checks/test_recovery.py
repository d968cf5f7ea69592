"""The recovery check under Dagster: it stops its own lane before an endpoint is spent, and nothing else."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.quantized import lane_plan, quantized_weights
from modelops_dagster.checks.recovery import recovery_check
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.lineage import read_value, write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.hub import Release, RepoFile
from modelops_dagster.domain.lanes import QUANTIZED_LANES
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import CheckpointResource
from modelops_dagster.resources.quantization import QuantizerResource
from modelops_dagster.settings import data_folder
from tests.clients.quantizing import REVISION, install_quantizer, put_checkpoint

INT8 = next(lane for lane in QUANTIZED_LANES if lane.name == "int8")
REPO = REVISION.repo_id


@dg.asset(key=["int8", "endpoint"], partitions_def=models)
def endpoint(int8_weights: Checkpoint) -> Checkpoint:
    """Stands for the endpoint: it was spent when this has run."""
    return int8_weights


class Chain:
    """A home with a released checkpoint, the fake quantizer, and the int8 lane up to its endpoint."""

    def __init__(self, home: Path) -> None:
        self.home, self.lineage = home, home / "lineage"
        install_quantizer(home / "engines", home / "cache")
        self.source = put_checkpoint(CheckpointStore(home / "checkpoints"))
        write_value(self.lineage, "raw_weights", REPO, "r0", self.source)
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        self.instance.add_dynamic_partitions("models", [REPO])

    def resources(self, lanes: tuple[str, ...] = ()) -> dict[str, Any]:
        quantizer = QuantizerResource(
            engines=str(self.home / "engines"),
            cache=str(self.home / "cache"),
            recipes_root=str(data_folder("quantization")),
            lane_recipes=[],
            policy_name="default",
            work=str(self.home / "quantizer"),
            checkpoints=str(self.home / "checkpoints"),
            accelerator="cpu",
            lanes=list(lanes),
            memory_limit_gb=None,
            timeout_s=60,
        )
        return {
            "quantizer": quantizer,
            "checkpoints": CheckpointResource(
                root=str(self.home / "checkpoints"), allow_list=str(self.home / "allow.yaml")
            ),
            "lineage": LineageResource(root=str(self.lineage)),
            "io_manager": LineageIOManager(root=str(self.lineage)),
        }

    def run(self, **tags: str) -> dg.ExecuteInProcessResult:
        chain = [dg.AssetSpec("raw_weights", partitions_def=models), quantized_weights(INT8), endpoint]
        return dg.materialize(
            [*chain, recovery_check(INT8)],
            selection=dg.AssetSelection.assets("int8_weights", endpoint),
            partition_key=REPO,
            instance=self.instance,
            resources=self.resources(),
            tags={name.replace("__", "/"): value for name, value in tags.items()},
            raise_on_error=False,
        )


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return [e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key]


def test_what_kept_enough_goes_on_to_its_endpoint(chain: Chain):
    result = chain.run()
    assert result.success
    assert materialized(result) == ["int8_weights", "int8/endpoint"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert (evaluation.passed, evaluation.blocking) == (True, True)
    kept = read_value(chain.lineage, "int8/recovery", REPO, None)
    assert kept.outcome == "pass"
    event = result.asset_materializations_for_node("int8_weights")[0]
    assert event.metadata["peak_rss_bytes"].value == 1000
    assert "int8 (sha256:" in str(event.metadata["recipe"].value)


def test_what_is_broken_stops_its_lane_before_the_endpoint(chain: Chain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(QuantizerResource, "pipes", _behaving("block"))
    result = chain.run()
    assert not result.success
    assert materialized(result) == ["int8_weights"]
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.description == "it does not load: RuntimeError: unflatten"
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    assert failure is not None
    assert failure.description == f"{REVISION} is not served in W8A8: it does not load: RuntimeError: unflatten."


def test_a_quantizer_that_fails_is_one_sentence_and_the_source_stays(chain: Chain, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(QuantizerResource, "pipes", _behaving("say-failed"))
    result = chain.run()
    assert not result.success
    failure = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    assert failure is not None
    assert "None of the group sizes divides it" in (failure.description or "")
    assert failure.metadata["reason"].value == "group_size"
    assert CheckpointStore(chain.home / "checkpoints").load(REVISION) == chain.source


def test_a_run_for_a_revision_that_was_replaced_does_nothing(chain: Chain):
    result = chain.run(modelops__commit_hash="d" * 40)
    assert not result.success
    assert materialized(result) == []


def test_the_plan_is_made_of_the_release_and_the_machine(chain: Chain):
    release = Release(revision=REVISION, hub_url="http://h", files=(RepoFile(path="m.safetensors", size_bytes=100),))
    write_value(chain.lineage, "release", REPO, "r0", release)
    for lanes, tag, taken in [
        ((), None, ["raw", "int8"]),
        ((), "raw,awq", ["raw", "awq"]),
        (("fp8",), None, ["raw", "fp8"]),
    ]:
        result = dg.materialize(
            [dg.AssetSpec("release", partitions_def=models), lane_plan],
            selection=[lane_plan],
            partition_key=REPO,
            instance=chain.instance,
            resources=chain.resources(lanes),
            tags={"modelops/lanes": tag} if tag else None,
        )
        plan = read_value(chain.lineage, "lane_plan", REPO, result.run_id)
        assert [p.lane for p in plan.lanes if p.selected] == taken
        assert result.asset_materializations_for_node("lane_plan")[0].metadata["lanes_taken"].value == len(taken)


def _behaving(how: str) -> Any:
    """A session whose worker is told how to behave."""

    @contextmanager
    def pipes(self: QuantizerResource, context: object) -> Any:
        del self, context
        yield {"FAKE_QUANTIZER": how}

    return pipes
