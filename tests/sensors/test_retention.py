"""The job that prunes the store, under a real Dagster instance."""

import os
import time
from pathlib import Path

import dagster as dg

from modelops_dagster.clients.checkpoints import MANIFEST_NAME, CheckpointStore
from modelops_dagster.clients.checkpoints.manifests import verification_path
from modelops_dagster.resources.platform import CheckpointResource
from modelops_dagster.sensors.retention import prune_checkpoints, prune_nightly
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import client, released, write_repo


def prune(home: Path, **config: object) -> dg.ExecuteInProcessResult:
    resources = {"checkpoints": CheckpointResource(root=str(home / "checkpoints"), allow_list=str(home / "allow.yaml"))}
    return prune_checkpoints.execute_in_process(
        resources=resources, run_config={"ops": {"prune": {"config": config}}}, raise_on_error=False
    )


def test_the_job_deletes_what_the_command_would(hub: HubServer, tmp_path: Path):
    checkpoint = CheckpointStore(tmp_path / "checkpoints").ensure(
        released(hub, write_repo(tmp_path / "a")), client(hub)
    )
    directory = Path(checkpoint.directory)
    os.utime(directory / MANIFEST_NAME, (time.time() - 40 * 86400,) * 2)
    verification_path(directory).unlink()
    assert prune(tmp_path).success and directory.is_dir()  # among the two newest
    assert prune(tmp_path, keep=0, dry_run=True).success and directory.is_dir()
    done = prune(tmp_path, keep=0)
    assert done.success and not directory.exists()
    event = next(e for e in done.all_events if e.event_type_value == "STEP_OUTPUT")
    freed = event.step_output_data.metadata["freed_bytes"].value
    assert isinstance(freed, int) and freed >= checkpoint.size_bytes
    assert not prune(tmp_path, older_than="soon").success


def test_nothing_is_deleted_at_night_until_somebody_wants_it():
    assert prune_nightly.default_status is dg.DefaultScheduleStatus.STOPPED
