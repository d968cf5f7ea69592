"""/v1/batches: many requests at once, answered by the gateway after everybody else's. Handlers run in threads."""

import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from pydantic import ConfigDict, Field

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.domain.access import Role
from modelops_dagster.domain.batch import MAX_REQUESTS, Batch, parse_requests
from modelops_dagster.domain.errors import NotFound
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.doorman import needs

_JSONL = "application/jsonl"


class BatchList(Value):
    batches: tuple[Batch, ...]


class BatchSubmission(Value):
    """Requests in OpenAI's batch format."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "alias": "acme/tiny",
                    "requests": [
                        {
                            "custom_id": "1",
                            "url": "/v1/chat/completions",
                            "body": {"messages": [{"role": "user", "content": "Hi"}]},
                        }
                    ],
                }
            ]
        }
    )

    requests: tuple[dict[str, Any], ...] = Field(
        min_length=1, max_length=MAX_REQUESTS, description="each with custom_id, url and body"
    )
    alias: str | None = Field(default=None, max_length=160, description="the model of every request")
    key_id: str | None = Field(default=None, max_length=64, description="gateway key that pays; default: the only one")
    filename: str = Field(default="batch.jsonl", min_length=1, max_length=200)
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)


def batches_router(batches: BatchStore, keys: KeyStore) -> APIRouter:
    """Submitting, following and cancelling batches."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    @router.get("", **needs(Role.VIEWER), summary="Every batch, newest first")
    def list_batches() -> BatchList:
        return BatchList(batches=tuple(batches.list()))

    @router.post("", status_code=201, **needs(Role.OPERATOR), summary="Submit a batch")
    def submit(submission: BatchSubmission) -> Batch:
        """Every request is checked first. It is charged to a gateway key, as if that key's owner had submitted it."""
        lines = [json.dumps(request) for request in submission.requests]
        content = "".join(r.model_dump_json() + "\n" for r in parse_requests(lines, submission.alias))
        charged = keys.charged(submission.key_id).key_id
        kept = batches.add_file(charged, submission.filename, content.encode())
        return batches.submit(charged, kept.file_id, metadata=submission.metadata)

    @router.get("/{batch_id}", **needs(Role.VIEWER), summary="How far a batch is")
    def show(batch_id: str) -> Batch:
        return _found(batches, batch_id)

    @router.post("/{batch_id}/cancel", **needs(Role.OPERATOR), summary="Ask for no more answers")
    def cancel(batch_id: str) -> Batch:
        """Those that are there stay."""
        _found(batches, batch_id)
        return batches.cancel(batch_id)

    @router.get(
        "/{batch_id}/answers", **needs(Role.OPERATOR), summary="The answers so far, one a line", response_class=Response
    )
    def answers(batch_id: str) -> Response:
        return _lines(batches.file_path(_found(batches, batch_id).output_file_id))

    @router.get(
        "/{batch_id}/errors", **needs(Role.OPERATOR), summary="Requests without an answer", response_class=Response
    )
    def errors(batch_id: str) -> Response:
        return _lines(batches.file_path(_found(batches, batch_id).error_file_id))

    return router


def _found(batches: BatchStore, batch_id: str) -> Batch:
    batch = batches.get(batch_id)
    if batch is None:
        raise NotFound(f"There is no batch {batch_id!r}; GET /v1/batches lists those there are.")
    return batch


def _lines(path: Path) -> Response:
    """A batch's file; one that has no line yet is not there."""
    return FileResponse(path, media_type=_JSONL) if path.is_file() else Response(media_type=_JSONL)
