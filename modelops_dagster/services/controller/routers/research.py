"""/v1/research: commands that use accelerators while nothing more important needs them."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.openapi.models import Example

from modelops_dagster.domain.access import Role
from modelops_dagster.domain.research import JobRequest, ResearchJob
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.doorman import needs
from modelops_dagster.services.controller.job_desk import JobDesk

SUBMITTED: dict[str, Example] = {
    "training": {
        "summary": "a training run that saves its work",
        "value": {"command": ["python", "train.py", "--resume"], "owner": "ada", "gpus": 2, "directory": "/srv/ada"},
    },
    "cluster": {
        "summary": "the same on a cluster, where a job runs in a container",
        "value": {
            "command": ["python", "/app/train.py", "--resume"],
            "owner": "ada",
            "gpus": 8,
            "image": "ghcr.io/acme/trainer:2.3.0",
            "memory": "512Gi",
        },
    },
}


class JobList(Value):
    jobs: tuple[ResearchJob, ...]


class JobLog(Value):
    job_id: str
    text: str


def research_router(desk: JobDesk) -> APIRouter:
    """Handlers run on the loop's thread, where records may be changed. To run a command here takes an admin."""
    router = APIRouter(prefix="/v1/research", tags=["research"])

    @router.get("", **needs(Role.VIEWER), summary="Every job, newest first")
    async def list_jobs() -> JobList:
        return JobList(jobs=desk.list())

    @router.post("", status_code=201, **needs(Role.ADMIN), summary="Queue a command")
    async def submit(request: Annotated[JobRequest, Body(openapi_examples=SUBMITTED)]) -> ResearchJob:
        return desk.submit(request)

    @router.get("/{job_id}", **needs(Role.VIEWER), summary="One job")
    async def show(job_id: str) -> ResearchJob:
        return desk.get(job_id)

    @router.post("/{job_id}/cancel", **needs(Role.OPERATOR), summary="End it, or take it out of the queue")
    async def cancel(job_id: str) -> ResearchJob:
        return desk.cancel(job_id)

    @router.get("/{job_id}/logs", **needs(Role.OPERATOR), summary="What it wrote, over all its attempts")
    async def logs(job_id: str, tail: Annotated[int, Query(ge=0, le=10_000, description="lines")] = 200) -> JobLog:
        job = desk.get(job_id)
        return JobLog(job_id=job_id, text=await asyncio.to_thread(desk.read_log, job, tail))

    return router
