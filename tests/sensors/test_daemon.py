"""What the daemon of `modelops up` does with runs whose processes are gone."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from modelops_dagster.sensors.daemon import MESSAGE, fail_abandoned


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the retries that `deploy/dagster.yaml` asks for."""
    retries = {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"run_retries": retries}) as instance:
        yield instance


@dg.op
def nothing() -> None: ...


@dg.job
def empty() -> None:
    nothing()


def run(instance: dg.DagsterInstance, status: Status) -> str:
    return instance.create_run_for_job(empty, status=status).run_id


def test_a_run_in_progress_is_failed_and_will_be_started_again(instance: dg.DagsterInstance):
    ids = [run(instance, status) for status in (Status.STARTED, Status.STARTING)]
    assert sorted(fail_abandoned(instance)) == sorted(ids)
    for run_id in ids:
        found = instance.get_run_by_id(run_id)
        assert found is not None
        assert found.status == Status.FAILURE
        assert found.tags["dagster/will_retry"] == "true"
        assert MESSAGE in [e.message for e in instance.all_logs(run_id)]
    assert fail_abandoned(instance) == []


def test_a_run_that_somebody_cancelled_is_cancelled(instance: dg.DagsterInstance):
    run_id = run(instance, Status.CANCELING)
    fail_abandoned(instance)
    found = instance.get_run_by_id(run_id)
    assert found is not None and found.status == Status.CANCELED


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.CANCELED])
def test_runs_without_a_process_stay_as_they_are(instance: dg.DagsterInstance, status: Status):
    run_id = run(instance, status)
    assert fail_abandoned(instance) == []
    found = instance.get_run_by_id(run_id)
    assert found is not None and found.status == status
