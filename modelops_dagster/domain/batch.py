"""Batches in the format of the OpenAI API: one request a line in, one answer or error a line out."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

BATCH_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_REQUESTS = 50_000
BatchState = Literal["in_progress", "completed", "cancelling", "cancelled", "expired"]


class BatchRequest(Value):
    """One line of a batch's input."""

    custom_id: str = Field(min_length=1, max_length=512, description="the submitter's name for the request")
    method: Literal["POST"] = "POST"
    url: str = Field(description="one of `BATCH_PATHS`")
    body: dict[str, Any]


class Batch(Value):
    """A batch and how far it is."""

    batch_id: str
    key_id: str = Field(description="of the key on whose behalf its requests are made")
    endpoint: str = Field(description="the path every request of it goes to")
    input_file_id: str
    output_file_id: str
    error_file_id: str
    state: BatchState = "in_progress"
    total: int = Field(ge=1, description="requests")
    completed: int = 0
    failed: int = 0
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    metadata: dict[str, str] = Field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether something is left to be done."""
        return self.state in ("in_progress", "cancelling")


def parse_requests(lines: Iterable[str], alias: str | None = None) -> Iterator[BatchRequest]:
    """The requests of an input file, with `alias` as the model of each where it is given.

    Raises:
        InvalidSpec: a line does not hold, a custom_id comes twice, or there are none or too many; names the line.
    """
    seen: set[str] = set()
    path = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        request = _parse(number, line, alias)
        if request.custom_id in seen:
            raise InvalidSpec(f"line {number}: custom_id {request.custom_id!r} comes twice; give each line its own.")
        if path not in (None, request.url):
            raise InvalidSpec(f"line {number}: a batch goes to one path, and this line asks for {request.url} too.")
        path = request.url
        seen.add(request.custom_id)
        if len(seen) > MAX_REQUESTS:
            raise InvalidSpec(f"line {number}: a batch has at most {MAX_REQUESTS} requests; split the file.")
        yield request
    if not seen:
        raise InvalidSpec("the file holds no request; write one JSON object a line, with custom_id, url and body.")


def _parse(number: int, line: str, alias: str | None) -> BatchRequest:
    try:
        request = BatchRequest.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the line"
        raise InvalidSpec(f"line {number}: {field}: {first['msg']}; correct it.", field=field) from error
    if request.url not in BATCH_PATHS:
        raise InvalidSpec(f"line {number}: url {request.url!r} is none of {', '.join(BATCH_PATHS)}.", field="url")
    if request.body.get("stream"):
        raise InvalidSpec(f"line {number}: a batch does not stream; leave 'stream' out.", field="body.stream")
    if alias is not None:
        request = request.model_copy(update={"body": {**request.body, "model": alias}})
    if not isinstance(request.body.get("model"), str):
        raise InvalidSpec(f"line {number}: body.model names no model; add one, or give --alias.", field="body.model")
    return request


def answer_line(request: BatchRequest, *, answer_id: str, status: int, body: Any, request_id: str | None = None) -> str:
    """The line of an answer, good or bad, as the output and the error file hold it."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return json.dumps({"id": answer_id, "custom_id": request.custom_id, "response": response, "error": None}) + "\n"


def error_line(request: BatchRequest, *, answer_id: str, code: str, message: str) -> str:
    """The line of a request that got no answer at all."""
    error = {"code": code, "message": message}
    return json.dumps({"id": answer_id, "custom_id": request.custom_id, "response": None, "error": error}) + "\n"


def answered_ids(lines: Iterable[str]) -> set[str]:
    """The custom_ids of an output or error file's whole lines."""
    return {str(json.loads(line)["custom_id"]) for line in lines if line.endswith("\n")}


def batch_document(batch: Batch) -> Mapping[str, Any]:
    """The batch as the OpenAI API shows it."""

    def stamp(at: datetime | None) -> int | None:
        return None if at is None else int(at.timestamp())

    ended = {f"{batch.state}_at": stamp(batch.ended_at)} if not batch.active else {}
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": batch.state,
        "output_file_id": batch.output_file_id if batch.completed and not batch.active else None,
        "error_file_id": batch.error_file_id if batch.failed and not batch.active else None,
        "created_at": stamp(batch.created_at),
        "in_progress_at": stamp(batch.created_at),
        "expires_at": stamp(batch.expires_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata or None,
        **ended,
    }
