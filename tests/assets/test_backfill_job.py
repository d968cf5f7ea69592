"""The job `backfill`, run by Dagster: what is recorded where, and what a wrong click says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from modelops_dagster.assets.backfill import backfill_job
from modelops_dagster.clients.lineage import read_value
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import GatewayResource, GauntletResource, ScoreResource
from modelops_dagster.settings import data_folder
from tests.assets.known_controller import known_controller
from tests.clients.gauntlet_parts import echo, quality
from tests.clients.grading_parts import written
from tests.clients.test_backfills import Controller, lineage_of
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=echo).in_thread() as running:
        yield running


@pytest.fixture
def resources(tmp_path: Path, server: OpenAIServer) -> dict[str, Any]:
    controller = Controller(server.url, {"aa": "Running", "bb": "Stopped"})
    return {
        "gauntlet": GauntletResource(
            eval_datasets=str(data_folder("eval_datasets")),
            policy_name="default",
            work=str(tmp_path / "work"),
            home=str(tmp_path),
        ),
        "scores": ScoreResource(root=str(tmp_path / "scores")),
        "controller": known_controller(controller),
        "gateway": GatewayResource(url="http://127.0.0.1:9", root=str(tmp_path / "gateway")),
        "lineage": LineageResource(root=str(lineage_of(tmp_path, server, ["aa", "bb"]))),
    }


def _run(resources: dict[str, Any], instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return backfill_job([quality(4), written(4)]).execute_in_process(
        run_config={"ops": {"backfill_suite": {"config": config}}},
        resources=resources,
        instance=instance,
        raise_on_error=False,
    )


def test_each_model_is_recorded_as_its_own_materialization(tmp_path: Path, resources: dict[str, Any]):
    with dg.DagsterInstance.ephemeral() as instance:
        done = _run(resources, instance, suite="quality", lanes=["raw"])
        assert done.success
        seen = instance.get_materialized_partitions(dg.AssetKey(["raw", "gauntlet", "quality"]))
        assert seen == {"org/aa", "org/bb"}
    report = read_value(tmp_path / "lineage", "raw/gauntlet/quality", "org/aa", None)
    assert report.run_id == done.run_id
    store = ScoreResource(root=str(tmp_path / "scores")).store()
    assert store.published.exists(), "and published at its end"
    assert store.query("select outcome, count(*) from backfills group by 1")[1] == [("evaluated", 2)]


NO_GRADER = (
    "only a grader can score suite 'writing' and none can be asked{}: name one that answers in graders.yaml, then "
    "launch the backfill again."
)
ABSENT = {"graders": [{"name": "judge", "endpoint": "judge"}]}


@pytest.mark.parametrize(
    ("suite", "graders", "sentence"),
    [
        ("qualty", {}, "there is no suite 'qualty'; the suites are quality, writing."),
        ("writing", {}, NO_GRADER.format("")),
        ("writing", ABSENT, NO_GRADER.format(" (The grader 'judge' is the endpoint judge, which is gone: start it)")),
    ],
)
def test_a_suite_that_cannot_be_asked_ends_in_one_sentence(
    tmp_path: Path, resources: dict[str, Any], server: OpenAIServer, suite: str, graders: dict[str, Any], sentence: str
):
    (tmp_path / "graders.yaml").write_text(json.dumps(graders))
    with dg.DagsterInstance.ephemeral() as instance:
        done = _run(resources, instance, suite=suite)
        failure = done.failure_data_for_node("backfill_suite")
        assert failure is not None
        assert failure.user_failure_data is not None
        assert failure.user_failure_data.description == sentence
    assert server.bodies == []


def test_a_suite_that_needs_graders_is_put_to_those_of_the_home(tmp_path: Path, resources: dict[str, Any]):
    with GraderModel().server().in_thread() as judge, dg.DagsterInstance.ephemeral() as instance:
        named = {"graders": [{"name": "judge", "url": judge.url, "model": "judge"}]}
        (tmp_path / "graders.yaml").write_text(json.dumps(named))
        done = _run(resources, instance, suite="writing", lanes=["raw"])
        assert done.success
        seen = instance.get_materialized_partitions(dg.AssetKey(["raw", "gauntlet", "writing"]))
        assert seen == {"org/aa", "org/bb"}
    store = ScoreResource(root=str(tmp_path / "scores")).store()
    judged = "select repo_id, count(distinct sample_id) from judgements group by all order by repo_id"
    assert store.query(judged)[1] == [("org/aa", 4), ("org/bb", 4)]
