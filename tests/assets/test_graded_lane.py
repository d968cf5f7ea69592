"""A lane with a suite that only graders can judge, under a real Dagster instance."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from modelops_dagster.assets.eval_datasets import dataset_asset
from modelops_dagster.assets.lanes import lane_assets
from modelops_dagster.assets.partitions import models
from modelops_dagster.client import create_token
from modelops_dagster.clients.labels import Graded, answers_to_label, land_labels, said_by, tasks_of, verdicts
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.gauntlet.suite import Suite
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
from tests.clients.grading_parts import by_number, written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import MODEL, OpenAIServer, last_user

POLICY = {
    "name": "default", "version": 1, "description": "One floor.",
    "criteria": [{"suite": "quality", "metric": "accuracy", "min": 0.1}],
}  # fmt: skip
SUITES = (quality(4), written(4))


def evaluate(
    server: OpenAIServer,
    home: Path,
    policy: dict[str, object],
    suites: Sequence[Suite] = SUITES,
    selection: str | Sequence[dg.AssetKey] = "*",
) -> dg.ExecuteInProcessResult:
    """The lane's suites and its verdict, of an endpoint at the server; or only what is selected of them."""
    found = endpoint(server)
    repo_id = found.checkpoint.revision.repo_id
    (home / "policies").mkdir(parents=True, exist_ok=True)
    (home / "policies" / "default.yaml").write_text(yaml.safe_dump(policy))
    create_token(home)

    @dg.asset(key=["raw", "endpoint"], partitions_def=models)
    def served() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=found)

    assets = [served, *lane_assets(RAW, suites)[1:3], *(dataset_asset(s, home) for s in suites)]
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
    job = dg.define_asset_job("lane", selection=selection)
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


def test_labels_let_the_verdict_alone_be_decided_again(home: Path):
    suites = (quality(4), written(24, categories=("summary",)))
    naming = {"suite": "writing", "metric": "accuracy", "min": 0.4}
    policy = POLICY | {"criteria": [naming]}
    store = ScoreStore(home / "scores")
    with OpenAIServer(answer=by_number_or_echo).in_thread() as server, GraderModel().server().in_thread() as judge:
        line = {"name": "strict", "url": judge.url, "model": "judge"}
        admission = {"labels": 20, "kappa": 0.5, "skill": 0.5}
        (home / "graders.yaml").write_text(json.dumps({"graders": [line], "admission": admission}))
        held = evaluate(server, home, policy, suites).output_for_node("raw__verdict")
        asked = len(server.bodies), len(judge.bodies)
        tasks = tasks_of(answers_to_label(store, graded := Graded(suites), verdicts(store)))
        land_labels(store, [(said_by(t, knows(t.answer.text), "ana"), t.answer) for t in tasks], "page")
        alone = [dg.AssetKey(["raw", "verdict"])]
        again = evaluate(server, home, policy, suites, alone).output_for_node("raw__verdict")
        assert (len(server.bodies), len(judge.bodies)) == asked
    assert len(graded.samples) == len(tasks) == 24
    assert (held.outcome, held.reopens) == ("hold", None)
    assert (again.outcome, again.reopens) == ("pass", held.verdict_id)
    assert [replay(store, one.verdict_id)[2] for one in (held, again)] == [[], []]


def by_number_or_echo(body: Mapping[str, Any]) -> str:
    """Texts for the suite that graders judge, and the right word for the other."""
    return by_number(body) if last_user(body).startswith("Write text") else echo(body)


def knows(text: str) -> str:
    return "pass" if "good" in text else "fail"
