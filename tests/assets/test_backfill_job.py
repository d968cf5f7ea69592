"""The jobs that people click, run by Dagster: what is recorded where, and what a wrong click says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from modelops_dagster.assets.backfill import backfill_job
from modelops_dagster.assets.operations import start_endpoint, stop_endpoint
from modelops_dagster.clients.lineage import read_value
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import ControllerResource, GauntletResource, ScoreResource
from modelops_dagster.settings import data_folder
from tests.clients.gauntlet_parts import echo, quality
from tests.clients.test_backfills import Controller, lineage_of
from tests.fakes.openai_server import OpenAIServer

CONTROLLERS: dict[str, Controller] = {}


class KnownController(ControllerResource):
    """The controller of the test that made it."""

    name: str

    def client(self) -> Any:
        return CONTROLLERS[self.name]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=echo).in_thread() as running:
        yield running


@pytest.fixture
def resources(tmp_path: Path, server: OpenAIServer) -> dict[str, Any]:
    CONTROLLERS[str(tmp_path)] = Controller(server.url, {"aa": "Running", "bb": "Stopped"})
    return {
        "gauntlet": GauntletResource(
            eval_datasets=str(data_folder("eval_datasets")),
            policy_name="default",
            work=str(tmp_path / "work"),
            home=str(tmp_path),
        ),
        "scores": ScoreResource(root=str(tmp_path / "scores")),
        "controller": KnownController(name=str(tmp_path)),
        "lineage": LineageResource(root=str(lineage_of(tmp_path, server, ["aa", "bb"]))),
    }


def _run(resources: dict[str, Any], instance: dg.DagsterInstance, **config: Any) -> dg.ExecuteInProcessResult:
    return backfill_job([quality(4)]).execute_in_process(
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


def test_a_suite_there_is_not_ends_in_one_sentence(resources: dict[str, Any]):
    with dg.DagsterInstance.ephemeral() as instance:
        done = _run(resources, instance, suite="qualty")
        failure = done.failure_data_for_node("backfill_suite")
        assert failure is not None
        assert failure.user_failure_data is not None
        assert failure.user_failure_data.description == "there is no suite 'qualty'; the suites are quality."


def test_an_endpoint_is_started_and_stopped_by_a_click(tmp_path: Path, resources: dict[str, Any]):
    controller = {"controller": resources["controller"]}
    for job, op, state in ((start_endpoint, "start_one", "Running"), (stop_endpoint, "stop_one", "Stopped")):
        done = job.execute_in_process(run_config={"ops": {op: {"config": {"endpoint": "bb"}}}}, resources=controller)
        assert done.success
        assert CONTROLLERS[str(tmp_path)].states["bb"] == state
