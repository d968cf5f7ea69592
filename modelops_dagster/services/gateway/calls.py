"""One row for every call a client made, refused ones too: who, what, which weights, how long, how much. No prompts."""

import json
import os
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelops_dagster.domain.gateway import KeyRecord

FLUSH_INTERVAL_S = 0.5
USAGE_WAIT_S = 5.0
MAX_WAITING_ROWS = 100_000
CLIENT_LEFT = 499


@dataclass(slots=True)
class Call:
    """One call on its way through the gateway. Times are monotonic seconds, `at` is UTC."""

    call_id: str
    path: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started_s: float = field(default_factory=time.monotonic)
    key: KeyRecord | None = None
    alias: str | None = None
    stream: bool = False
    hides_usage: bool = False
    broken: bool = False
    grants: list[Callable[[], frozenset[str]]] = field(default_factory=list)
    status: int | None = None
    error: str | None = None
    router_id: str | None = None
    first_byte_s: float | None = None
    ended_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    failures: list[dict[str, str | None]] = field(default_factory=list)

    @property
    def router_ids(self) -> frozenset[str]:
        """The deployments this call may reach.

        Routes change while calls are made: the Router may have looked before the change or after it, so what was
        granted when the call came in holds, and what its key is granted now does too.
        """
        return frozenset().union(*(grant() for grant in self.grants))

    @property
    def waits_for_usage(self) -> bool:
        """Whether an endpoint answered and LiteLLM has not yet said how many tokens that took."""
        answered = self.status in (200, CLIENT_LEFT) and self.router_id is not None
        return answered and not self.broken and self.cost_usd is None

    def row(self) -> dict[str, object]:
        """The call as it is logged. `failures` are attempts that failed before the answer, or instead of one."""
        deployment = self.router_id.split(":", 1)[0] if self.router_id else None
        endpoint, _, commit = deployment.partition("@") if deployment else (None, "", None)
        return {
            "time": self.at.isoformat(timespec="milliseconds"),
            "call_id": self.call_id,
            "key_id": self.key.key_id if self.key else None,
            "key_alias": self.key.alias if self.key else None,
            "path": self.path,
            "alias": self.alias,
            "deployment": deployment,
            "endpoint": endpoint,
            "commit_hash": commit,
            "stream": self.stream,
            "status": self.status,
            "error": self.error,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "cost_usd": self.cost_usd,
            "latency_s": _since(self.started_s, self.ended_s),
            "ttft_s": _since(self.started_s, self.first_byte_s) if self.stream and self.status == 200 else None,
            "failures": self.failures,
        }


CURRENT_CALL: ContextVar[Call | None] = ContextVar("current_call", default=None)


class CallLog:
    """Appends rows to `<root>/<date>/<pid>-<start>.jsonl`, a file of this worker alone.

    A row waits for its token counts, which the Router reports just after the answer, for five seconds at most. What a
    killed worker loses is what came since the last flush.
    """

    def __init__(self, root: Path, *, complain: Callable[[str], None]) -> None:
        self._root = root
        self._name = f"{os.getpid()}-{int(time.time())}.jsonl"
        self._ended: deque[Call] = deque(maxlen=MAX_WAITING_ROWS)
        self._complain = complain

    def add(self, call: Call) -> None:
        """Take a call that ended."""
        call.ended_s = time.monotonic()
        self._ended.append(call)

    def flush(self, *, everything: bool = False) -> None:
        """Write the rows that are complete; all of them when the worker stops."""
        now = time.monotonic()
        waiting = [
            c for c in self._ended if not everything and c.waits_for_usage and now - (c.ended_s or now) < USAGE_WAIT_S
        ]
        kept = {id(c) for c in waiting}
        ready = [c for c in self._ended if id(c) not in kept]
        if not ready:
            return
        lines = "".join(json.dumps(c.row(), separators=(",", ":")) + "\n" for c in ready)
        folder = self._root / datetime.now(UTC).date().isoformat()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / self._name).open("ab") as file:
                file.write(lines.encode())
        except OSError as error:  # a full disk must not stop the calls; the rows wait in memory
            self._complain(f"the call log cannot be written ({error}); {len(self._ended)} rows wait in memory")
            return
        self._ended = deque(waiting, maxlen=MAX_WAITING_ROWS)


def _since(start_s: float, end_s: float | None) -> float | None:
    return None if end_s is None else round(end_s - start_s, 6)
