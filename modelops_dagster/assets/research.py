"""The research job that people launch: a command on accelerators that endpoints may take back, as one run."""

import time
from collections.abc import Iterator

import dagster as dg
from pydantic import Field, ValidationError

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.client import ModelOpsClient
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.research import OVER, JobRequest, JobState, ResearchJob
from modelops_dagster.resources.platform import ControllerResource

LAST_LINES = 40
RUN_VARIABLE = "MODELOPS_RUN"  # the run that a job was asked for by


class ResearchConfig(dg.Config):
    """What is run, and where: `image` on a cluster, `directory` on one machine."""

    command: list[str] = Field(description="Program and arguments, no shell.")
    owner: str = Field(description="Who is told when it is preempted.")
    gpus: int = Field(default=1, ge=0, description="Accelerators it needs.")
    priority: str = Field(default="research", description="research or preview: whom it yields to.")
    image: str = Field(default="", description="Container it runs in; on a cluster.")
    directory: str = Field(default="", description="Where it runs; on a cluster, empty is its own folder.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables; no secrets.")
    cpu: str = Field(default="", description="vCPU such as 4 or 500m; on a cluster.")
    memory: str = Field(default="", description="Such as 64Gi; on a cluster.")
    nodegroups: list[str] = Field(default_factory=list, description="Nodes it may be on; on a cluster.")
    max_hours: float = Field(default=24.0, gt=0, description="Hours after which it is ended; on a cluster.")
    grace_s: float = Field(default=60.0, ge=0, description="Seconds between SIGTERM and SIGKILL, to save its work in.")
    poll_s: float = Field(default=5.0, gt=0, description="Seconds between two looks at it.")


@dg.op(
    description="A command on accelerators that nothing more important needs. It is preempted and goes on without "
    "that being a failure; what it cost is in the run's metadata. Terminating the run cancels it."
)
def research_command(context: dg.OpExecutionContext, config: ResearchConfig, controller: ControllerResource) -> None:
    with clear_failure():
        client = controller.client()
        request = _request(config, context.run.root_run_id or context.run_id)
        try:
            # a run that is started again after a crash goes on with the job of the one before
            job = next(_begun(client, request), None) or client.submit_job(request)
            job = _follow(context, client, job, config.poll_s)
        except BaseException:
            for left in _begun(client, request):
                client.cancel_job(left.job_id)
            raise
    context.add_output_metadata(
        {
            "job": job.job_id,
            "preempted": job.preemptions,
            "gpu_hours": job.gpu_hours,
            "lost_gpu_hours": job.lost_gpu_hours,
            "attempts": len(job.attempts),
        }
    )
    if job.state is not JobState.SUCCEEDED:
        tail = client.job_logs(job.job_id, LAST_LINES)
        metadata = {"log_tail": dg.MetadataValue.md(f"```\n{tail}\n```")}
        raise dg.Failure(
            description=f"{job.job_id}: {job.state}. {job.message}", metadata=metadata, allow_retries=False
        )


@dg.job(description="A command on accelerators that endpoints may take back: the same as `modelops research run`.")
def research() -> None:
    research_command()


def _request(config: ResearchConfig, run_id: str) -> JobRequest:
    fields = {name: value for name, value in config.model_dump().items() if value not in ("", [], {})}
    del fields["poll_s"]
    fields["environment"] = config.environment | {RUN_VARIABLE: run_id}
    try:
        return JobRequest.model_validate(fields)
    except ValidationError as error:
        raise invalid_spec(error) from error


def _begun(client: ModelOpsClient, request: JobRequest) -> Iterator[ResearchJob]:
    return (job for job in client.list_jobs() if job.request == request and job.state not in OVER)


def _follow(context: dg.OpExecutionContext, client: ModelOpsClient, job: ResearchJob, poll_s: float) -> ResearchJob:
    """Log every change until it is over."""
    said = ""
    while True:
        now = f"{job.job_id}: {job.state} {job.message}".rstrip()
        if now != said:
            context.log.info(now)
            said = now
        if job.state in OVER:
            return job
        time.sleep(poll_s)
        job = client.get_job(job.job_id)
