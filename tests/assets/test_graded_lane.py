"""A lane with a suite that only graders can judge, under a real Dagster instance."""

import json
from pathlib import Path

import dagster as dg
import pytest
import yaml

from modelops_dagster.assets.eval_datasets import dataset_asset
from modelops_dagster.assets.lanes import lane_assets
from modelops_dagster.assets.partitions import models
from modelops_dagster.client import create_token
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.lanes import RAW
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import (
    ControllerResource,
    EngineResource,
    GatewayResource,
    GauntletResource,
    ScoreResource,
)
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.clients.grading_parts import written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import MODEL, OpenAIServer

POLICY = {
    "name": "default", "version": 1, "description": "One floor.",
    "criteria": [{"suite": "quality", "metric": "accuracy", "min": 0.1}],
}  # fmt: skip


def evaluate(server: OpenAIServer, home: Path, policy: dict[str, object]) -> dg.ExecuteInProcessResult:
    """The lane's suites and its verdict, of an endpoint at the server."""
    found = endpoint(server)
    repo_id = found.checkpoint.revision.repo_id
    (home / "policies").mkdir(parents=True, exist_ok=True)
    (home / "policies" / "default.yaml").write_text(yaml.safe_dump(policy))
    create_token(home)
    suites = [quality(4), written(4)]

    @dg.asset(key=["raw", "endpoint"], partitions_def=models)
    def served() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=found)

    assets = [served, *lane_assets(RAW, suites)[1:3], *(dataset_asset(s) for s in suites)]
    resources = {
        "gauntlet": GauntletResource(
            eval_datasets=str(home), policy_name="default", work=str(home / "work"), home=str(home)
        ),
        "scores": ScoreResource(root=str(home / "scores")),
        "gateway": GatewayResource(url="http://127.0.0.1:1", root=str(home / "gateway")),
        "controller": ControllerResource(),
        "engines": EngineResource(engines="", cache="", accelerator="cpu", max_context=1, min_tokens_per_second=1),
        "lineage": LineageResource(root=str(home / "lineage")),
        "io_manager": LineageIOManager(root=str(home / "lineage")),
    }
    job = dg.define_asset_job("lane", selection="*")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(models.name), [repo_id])
        defs = dg.Definitions(assets=assets, jobs=[job], resources=resources)
        return defs.resolve_job_def("lane").execute_in_process(instance=instance, partition_key=repo_id)


def grading(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [
        m for m in result.get_asset_materialization_events()
        if m.asset_key == dg.AssetKey(["raw", "gauntlet", "writing"])
    ]  # fmt: skip
    return str(event.materialization.metadata["grading"].value)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    return tmp_path


def test_the_candidate_sits_out_as_a_grader_and_the_other_one_advises(home: Path):
    with OpenAIServer(answer=echo).in_thread() as server, GraderModel().server().in_thread() as judge:
        lines = [
            {"name": "itself", "url": server.url, "model": MODEL},
            {"name": "other", "url": judge.url, "model": "judge"},
        ]
        (home / "graders.yaml").write_text(json.dumps({"graders": lines}))
        result = evaluate(server, home, POLICY)
    assert "The grader itself sat out, because it is the model fake itself." in grading(result)
    assert "advisory" in grading(result)
    verdict = result.output_for_node("raw__verdict")
    assert {e.suite: e.n_samples for e in verdict.evidence} == {"quality": 4, "writing": 0}
    counts = ScoreStore(home / "scores").query("select count(*), count(distinct grader) from judgements")[1]
    assert counts == [(8, 1)]


def test_without_graders_it_is_not_asked_unless_the_policy_names_it(home: Path):
    with OpenAIServer(answer=echo).in_thread() as server:
        result = evaluate(server, home, POLICY)
        assert "Not asked" in grading(result)
        assert len(server.bodies) == 4
        verdict = result.output_for_node("raw__verdict")
        assert [e.suite for e in verdict.evidence] == ["quality"]
        naming = POLICY | {"criteria": [*POLICY["criteria"], {"suite": "writing", "metric": "accuracy", "min": 0.1}]}
        held = evaluate(server, home, naming).output_for_node("raw__verdict")
    assert held.outcome == "hold"
    assert "suite writing has nothing that counts" in held.reason
