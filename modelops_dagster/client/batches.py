"""Verbs of batches: many requests at once, answered after everybody else's."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modelops_dagster.client.connection import Connection
from modelops_dagster.clients.batches import is_batch_id
from modelops_dagster.domain.batch import Batch
from modelops_dagster.domain.errors import InvalidSpec, NotFound

_SUBMIT_TIMEOUT_S = 120.0


class BatchVerbs(Connection):
    """Batches are charged to a gateway key and answered by a running gateway."""

    def submit_batch(
        self, requests: str | Path | Iterable[Mapping[str, Any]], alias: str | None = None, **options: Any
    ) -> Batch:
        """Submit requests in OpenAI's batch format.

        Args:
            requests: a JSONL file, or the requests themselves, each with custom_id, url and body.
            alias: the model of every request; default: what each names.
            options: `key_id`, the gateway key that pays (default: the only one), `filename` and `metadata`.

        Raises:
            InvalidSpec: a request does not hold, which names its line; or it is not clear who pays.
        """
        found = _read(Path(requests)) if isinstance(requests, str | Path) else [dict(r) for r in requests]
        body = {"requests": found, "alias": alias, **options}
        return Batch.model_validate(self._call("POST", "/v1/batches", json=body, timeout=_SUBMIT_TIMEOUT_S))

    def list_batches(self) -> tuple[Batch, ...]:
        """Every batch, newest first."""
        return tuple(Batch.model_validate(item) for item in self._call("GET", "/v1/batches")["batches"])

    def get_batch(self, batch_id: str) -> Batch | None:
        """How far a batch is; None when there is none of that id."""
        try:
            return Batch.model_validate(self._call("GET", _path(batch_id)))
        except NotFound:
            return None

    def cancel_batch(self, batch_id: str) -> Batch:
        """Ask for no more answers; those that are there stay.

        Raises:
            NotFound: there is no such batch.
        """
        return Batch.model_validate(self._call("POST", _path(batch_id, "/cancel")))

    def batch_answers(self, batch_id: str) -> list[dict[str, Any]]:
        """The answers so far, in the order they came.

        Raises:
            NotFound: there is no such batch.
        """
        return [json.loads(line) for line in self._text(_path(batch_id, "/answers")).splitlines()]

    def batch_errors(self, batch_id: str) -> list[dict[str, Any]]:
        """The requests that got an error instead of an answer.

        Raises:
            NotFound: there is no such batch.
        """
        return [json.loads(line) for line in self._text(_path(batch_id, "/errors")).splitlines()]


def _path(batch_id: str, verb: str = "") -> str:
    """The batch's address. An id that no batch can have is answered here, before it becomes another address."""
    if not is_batch_id(batch_id):
        raise NotFound(f"There is no batch {batch_id!r}; `modelops batch list` shows those there are.")
    return f"/v1/batches/{batch_id}{verb}"


def _read(path: Path) -> list[Any]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            found += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise InvalidSpec(f"line {number} of {path} is not JSON ({error}); correct it.", field="requests") from None
    return found
