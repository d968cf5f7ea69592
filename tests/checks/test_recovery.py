"""The recovery check under Dagster: it stops its own lane before an endpoint is spent, and nothing else."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.quantized import lane_plan
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.lineage import read_value, write_value
from modelops_dagster.domain.hub import Release, RepoFile
from modelops_dagster.resources.quantization import QuantizerResource
from tests.assets.quantized_chain import REPO, Chain, materialized
from tests.clients.quantizing import REVISION


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


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
