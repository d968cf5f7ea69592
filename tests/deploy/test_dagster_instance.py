"""The instance's settings: what Dagster makes of the file, and that one machine and a cluster agree."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import dagster_instance_config
from dagster._core.scheduler.instigation import TickStatus

from modelops_dagster.services.stack import Stack
from modelops_dagster.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ONE_MACHINE = DEPLOY / "dagster.yaml"
CLUSTER = DEPLOY / "kubernetes" / "base" / "instance" / "dagster.yaml"
OF_A_CLUSTER = {"storage", "run_launcher", "run_coordinator", "compute_logs", "local_artifact_storage"}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copyfile(ONE_MACHINE, tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def test_runs_wait_for_each_other_as_the_page_says(instance: dg.DagsterInstance):
    concurrency = instance.get_concurrency_config()
    assert concurrency.run_queue_config is not None
    assert concurrency.run_queue_config.max_concurrent_runs == 4
    limits = {limit["key"]: limit for limit in concurrency.run_queue_config.tag_concurrency_limits}
    assert limits["dagster/partition"] == {
        "key": "dagster/partition",
        "value": {"applyLimitPerUniqueValue": True},
        "limit": 1,
    }
    assert limits["dagster/backfill"]["limit"] == 2
    assert concurrency.pool_config.default_pool_limit == 1


def test_what_dies_is_noticed_and_started_again(instance: dg.DagsterInstance):
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_start_timeout_seconds == 600
    assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 15
    assert instance.run_monitoring_settings["max_runtime_seconds"] == 86400
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 2
    assert instance.run_retries_retry_on_asset_or_op_failure is False


@pytest.mark.parametrize("kind", [InstigatorType.SENSOR, InstigatorType.SCHEDULE, InstigatorType.AUTO_MATERIALIZE])
def test_no_tick_is_kept_for_ever(instance: dg.DagsterInstance, kind: InstigatorType):
    kept = instance.get_tick_retention_settings(kind)
    assert kept == {
        TickStatus.STARTED: 30,
        TickStatus.SKIPPED: 3,
        TickStatus.SUCCESS: 30,
        TickStatus.FAILURE: 90,
    }


def test_a_slow_sensor_keeps_no_other_waiting_and_nothing_is_sent_home(instance: dg.DagsterInstance):
    assert instance.get_sensor_settings()["use_threads"] is True
    assert instance.telemetry_enabled is False
    assert instance.nux_enabled is False


def test_modelops_up_uses_this_file_and_leaves_a_changed_one_alone(tmp_path: Path):
    ports = dict.fromkeys(("MODELOPS_DAGSTER_PORT", "MODELOPS_GATEWAY_PORT", "MODELOPS_CONTROLLER_PORT"), "0")
    stack = Stack(Settings.load({"MODELOPS_HOME": str(tmp_path), "HOME": str(tmp_path), **ports}), echo=lambda *_: None)
    stack.prepare_home()
    own = tmp_path / "dagster" / "dagster.yaml"
    assert own.read_text() == ONE_MACHINE.read_text()
    own.write_text("telemetry: {enabled: false}\n")
    stack.prepare_home()
    assert own.read_text() == "telemetry: {enabled: false}\n"


def test_a_cluster_differs_where_it_must_and_nowhere_else():
    (one, cluster) = (yaml.safe_load(path.read_text()) for path in (ONE_MACHINE, CLUSTER))
    assert set(cluster) - set(one) == OF_A_CLUSTER
    assert cluster["concurrency"]["runs"].pop("max_concurrent_runs") > one["concurrency"]["runs"].pop(
        "max_concurrent_runs"
    )
    assert {name: cluster[name] for name in one} == one


@pytest.mark.parametrize("path", [ONE_MACHINE, CLUSTER])
def test_dagster_knows_every_setting(path: Path, tmp_path: Path):
    if path == CLUSTER:  # its storage needs a package and a database that only a cluster has
        kept = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k not in OF_A_CLUSTER}
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept))
    else:
        shutil.copyfile(path, tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["concurrency"]["pools"]["granularity"] == "op"
