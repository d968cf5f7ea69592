"""Answers batches through the gateway, on behalf of the keys they were submitted with, after everybody else's calls.

It is a client of the gateway like any other: permissions, budgets and the call log hold for a batch as they do for its
key. What it knows is in the output files, so one that was killed goes on where it stopped.
"""

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.domain.batch import Batch, BatchRequest, answer_line, error_line
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.services.gateway.identity import ON_BEHALF_OF, PRIORITY

LOOK_INTERVAL_S = 0.5
WIDTH = 4
ATTEMPTS = 6
LONGEST_WAIT_S = 120.0
TIMEOUT_S = 900.0


class BatchRunner:
    """Follows the batches of a store."""

    def __init__(self, store: BatchStore, url: str, batch_key: str, *, complain: Callable[[str], None]) -> None:
        """
        Args:
            url: of the gateway, without /v1.
            batch_key: lets it call on behalf of other keys.
        """
        self._store = store
        self._url = url
        self._headers = {"authorization": f"Bearer {batch_key}", PRIORITY: "batch"}
        self._complain = complain

    async def follow(self) -> None:
        """Answer batches for ever; one at a time of each key, several keys at once."""
        under_way: dict[str, asyncio.Task[None]] = {}
        while True:
            under_way = {key: task for key, task in under_way.items() if not task.done()}
            try:
                active = [b for b in self._store.list() if b.active]
            except (OSError, ValueError) as error:
                self._complain(f"batches cannot be read ({type(error).__name__}: {error})")
                active = []
            for batch in reversed(active):
                if batch.key_id not in under_way:
                    under_way[batch.key_id] = asyncio.create_task(self._run(batch))
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _run(self, batch: Batch) -> None:
        try:
            await self._answer_all(batch)
        except (ModelOpsError, OSError, ValueError) as error:
            self._complain(f"batch {batch.batch_id} stopped and is tried again ({type(error).__name__}: {error})")
            await asyncio.sleep(5)

    async def _answer_all(self, batch: Batch) -> None:
        done, failed = await asyncio.to_thread(self._store.answered, batch)
        requests = (r for r in self._store.requests(batch.input_file_id) if r.custom_id not in done | failed)
        counts = {"completed": len(done), "failed": len(failed)}
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, headers=self._headers) as http:
            await asyncio.gather(*(self._worker(http, batch, requests, counts) for _ in range(WIDTH)))
        state = self._stopped_by(batch) or "completed"
        self._store.change(batch.batch_id, state=state, ended_at=datetime.now(UTC), **counts)

    async def _worker(self, http: httpx.AsyncClient, batch: Batch, requests: Any, counts: dict[str, int]) -> None:
        while self._stopped_by(batch) is None:
            request = next(requests, None)
            if request is None:
                return
            good, line = await self._ask(http, batch, request)
            if line is None:
                return
            self._store.append(batch.output_file_id if good else batch.error_file_id, [line])
            counts["completed" if good else "failed"] += 1
            self._store.change(batch.batch_id, **counts)

    def _stopped_by(self, batch: Batch) -> str | None:
        now = self._store.get(batch.batch_id)
        if now is None or now.state in ("cancelling", "cancelled"):
            return "cancelled"
        return "expired" if datetime.now(UTC) > batch.expires_at else None

    async def _ask(self, http: httpx.AsyncClient, batch: Batch, request: BatchRequest) -> tuple[bool, str | None]:
        """Whether it was answered, and the line to write; no line when the batch was stopped meanwhile."""
        answer_id, attempt, told = f"batch_req-{secrets.token_hex(12)}", 0, "no answer"
        while self._stopped_by(batch) is None:
            try:
                answer = await http.post(
                    f"{self._url}{request.url}", json=request.body, headers={ON_BEHALF_OF: batch.key_id}
                )
            except httpx.HTTPError as error:
                wait_s, told = min(2.0**attempt, 30.0), type(error).__name__
                attempt += 1
            else:
                wait_s = float(answer.headers.get("retry-after") or min(2.0**attempt, 30.0))
                waits = answer.status_code == 429 and wait_s <= LONGEST_WAIT_S
                attempt += 0 if waits else 1
                final = not waits and answer.status_code < 500
                if final or attempt >= ATTEMPTS:
                    call_id = answer.headers.get("x-litellm-call-id")
                    line = answer_line(
                        request, answer_id=answer_id, status=answer.status_code, body=_body(answer), request_id=call_id
                    )
                    return answer.status_code == 200, line
            if attempt >= ATTEMPTS:
                line = error_line(request, answer_id=answer_id, code="no_answer", message=told)
                return False, line
            await asyncio.sleep(wait_s)
        return False, None


def _body(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return answer.text
