"""The research job as a run, against the real controller: done, failed, ended, and gone on with after a crash."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.research import RUN_VARIABLE, research
from modelops_dagster.client import ModelOpsClient
from modelops_dagster.domain.research import JobRequest, JobState, ResearchJob
from modelops_dagster.resources.platform import ControllerResource
from modelops_dagster.settings import Settings
from tests.fakes.stack import Stack, wait_until

RUN_ID = "01234567-89ab-4cde-8f01-23456789abcd"
WAITS = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\nprint('done')"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    for name, value in stack.settings.environ().items():
        monkeypatch.setenv(name, value)
    yield stack.up()
    stack.down()


class Following(ControllerResource):
    """Makes the file that a job waits for, once the run looks how the job is."""

    go: str

    def client(self) -> ModelOpsClient:
        go = Path(self.go)

        class Client(ModelOpsClient):
            def get_job(self, job_id: str) -> ResearchJob:
                go.touch()
                return super().get_job(job_id)

        return Client.from_settings(Settings.load())


def run(
    folder: Path, code: str, controller: ControllerResource | None = None, **config: object
) -> dg.ExecuteInProcessResult:
    command = [sys.executable, "-S", "-c", code]
    given = {"command": command, "owner": "ada", "gpus": 0, "directory": str(folder), "poll_s": 0.05, **config}
    return research.execute_in_process(
        resources={"controller": controller or ControllerResource()},
        run_config={"ops": {"research_command": {"config": given}}},
        run_id=RUN_ID,
        raise_on_error=False,
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    found = next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data
    assert found is not None
    return str(found.description)


def test_a_command_is_a_run_that_says_what_it_cost(stack: Stack, tmp_path: Path):
    result = run(tmp_path, "print('hello')")
    assert result.success
    (job,) = stack.client.list_jobs()
    (output,) = [e for e in result.all_events if e.is_successful_output]
    metadata = output.step_output_data.metadata
    assert (metadata["job"].value, metadata["preempted"].value) == (job.job_id, 0)
    assert {"gpu_hours", "lost_gpu_hours", "attempts"} <= set(metadata)


def test_a_command_that_fails_fails_its_run_with_its_last_lines(stack: Stack, tmp_path: Path):
    assert "exit code 3" in failure(run(tmp_path, "raise SystemExit(3)"))
    assert "is not a directory here" in failure(run(tmp_path / "none", ""))
    assert "production is never preempted" in failure(run(tmp_path, "", priority="production"))
    assert len(stack.client.list_jobs()) == 1, "what cannot be run is not queued"


def test_a_run_that_is_terminated_cancels_its_job(stack: Stack, tmp_path: Path):
    def end() -> None:
        wait_until(lambda: [j for j in stack.client.list_jobs() if j.state is JobState.RUNNING])
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=end)
    thread.start()
    assert not run(tmp_path, WAITS).success
    thread.join()
    wait_until(lambda: stack.client.list_jobs()[0].state is JobState.CANCELLED)


def test_a_run_that_is_started_again_goes_on_with_its_job(stack: Stack, tmp_path: Path):
    command = (sys.executable, "-S", "-c", WAITS)
    environment = {RUN_VARIABLE: RUN_ID}
    request = JobRequest(command=command, owner="ada", gpus=0, directory=str(tmp_path), environment=environment)
    begun = stack.client.submit_job(request)
    assert run(tmp_path, WAITS, Following(go=str(tmp_path / "go"))).success
    assert [job.job_id for job in stack.client.list_jobs()] == [begun.job_id]
