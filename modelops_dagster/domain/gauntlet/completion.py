"""What an endpoint returned for one request, with its times, or why there is nothing."""

from dataclasses import dataclass, field
from typing import Any, Literal

ErrorClass = Literal[
    "connection", "timeout", "rate_limited", "server_error", "unauthorized", "not_found", "refused_request",
    "not_json", "html", "empty_choices", "cut_stream", "gave_up",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Completion:
    """Times are milliseconds since the request was sent, after any wait for a free slot (`client_queue_ms`).

    `first_chunk_ms` is vLLM's TTFT: the first chunk with choices, even if it only carries a role. `ttft_ms` is the
    first non-empty content or reasoning, `ttfot_ms` the first content. `itl_ms` are the gaps between chunks that
    carry text. They are None or empty when the request was not streamed.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    status: int | None = None
    error: ErrorClass | None = None
    error_detail: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    client_queue_ms: float = 0.0
    first_chunk_ms: float | None = None
    ttft_ms: float | None = None
    ttfot_ms: float | None = None
    itl_ms: tuple[float, ...] = ()
    chunk_gaps_ms: tuple[float, ...] = ()
    """Between all chunks with choices, those without text included: what vLLM calls ITL."""
    e2el_ms: float | None = None
    attempts: int = 1
    logprobs: tuple[float, ...] = ()
    tool_calls: tuple[tuple[str, str], ...] = ()
    reasoning_is_cut: bool = False
    """The reasoning was opened and never closed, so there is no answer."""
    cache_hit: bool = False
    """Answered from a cache: usage is the original request's, and there are no times."""
    raw: dict[str, Any] = field(default_factory=dict)
    """The parsed body of a non-streamed answer; empty otherwise."""

    @property
    def is_ok(self) -> bool:
        return self.error is None

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (e2el - ttft) / (tokens_out - 1), vLLM's formula on our TTFT."""
        if self.e2el_ms is None or self.ttft_ms is None or self.tokens_out is None or self.tokens_out <= 1:
            return None
        return (self.e2el_ms - self.ttft_ms) / (self.tokens_out - 1)
