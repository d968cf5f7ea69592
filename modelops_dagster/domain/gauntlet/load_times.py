"""The times of one streamed answer, and what other load generators call them: the same stream has many TTFTs."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from modelops_dagster.domain.gauntlet.metrics import percentile
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.values import Value

Tool = Literal["modelops", "vllm", "guidellm", "aiperf"]


class StreamTimes(Value):
    """One answered request as it is stored. Times are milliseconds since it was sent."""

    first_chunk_ms: float = Field(description="first chunk with choices, even if it only carries a role")
    ttft_ms: float = Field(description="first chunk with content or reasoning")
    ttfot_ms: float | None = Field(default=None, description="first chunk with content")
    e2el_ms: float = Field(description="last chunk with choices; usage and [DONE] come later and do not count")
    itl_ms: tuple[float, ...] = Field(default=(), description="gaps between chunks that carry content or reasoning")
    chunk_gaps_ms: tuple[float, ...] = Field(default=(), description="gaps between all chunks with choices")
    tokens_out: int | None = Field(default=None, description="tokens of the answer, reasoning included")

    @property
    def last_text_ms(self) -> float:
        """When the last content or reasoning came."""
        return self.ttft_ms + sum(self.itl_ms)


class ToolTimes(Value):
    """The request in the words of one tool; None or empty where it has no such figure for it."""

    ttft_ms: float
    tpot_ms: float | None = Field(default=None, description="what the tool calls time per output token")
    itl_ms: tuple[float, ...] = Field(default=(), description="what it pools as inter-token latency")
    e2el_ms: float


def as_modelops(times: StreamTimes) -> ToolTimes:
    """Ours. TTFT is the first text; TPOT = (e2el - ttft) / (tokens - 1), vLLM's formula on that TTFT; ITL are the gaps
    between chunks with text, however many tokens each holds (`tokens_per_chunk` says)."""
    return ToolTimes(
        ttft_ms=times.ttft_ms,
        tpot_ms=_per_token(times.e2el_ms - times.ttft_ms, times.tokens_out),
        itl_ms=times.itl_ms,
        e2el_ms=times.e2el_ms,
    )


def as_vllm(times: StreamTimes) -> ToolTimes:
    """`vllm bench serve` (vllm/benchmarks/lib/endpoint_request_func.py, vllm/benchmarks/serve.py).

    TTFT = first chunk with choices; latency = last such chunk; ITL = every gap between such chunks, pooled over all
    requests; TPOT = (latency - TTFT) / (tokens - 1).
    """
    return ToolTimes(
        ttft_ms=times.first_chunk_ms,
        tpot_ms=_per_token(times.e2el_ms - times.first_chunk_ms, times.tokens_out),
        itl_ms=times.chunk_gaps_ms,
        e2el_ms=times.e2el_ms,
    )


def as_guidellm(times: StreamTimes) -> ToolTimes:
    """GuideLLM (src/guidellm/schemas/request_stats.py).

    TTFT = first iteration with a token; "time per output token" = (last token - *start*) / tokens, so it contains TTFT;
    "inter token latency" = (last token - first token) / (tokens - 1), one figure a request. Its latency ends with the
    response, after usage and [DONE]; ours, which stands in here, with the last chunk.
    """
    tokens = times.tokens_out
    between = _per_token(times.last_text_ms - times.ttft_ms, tokens)
    return ToolTimes(
        ttft_ms=times.ttft_ms,
        tpot_ms=times.last_text_ms / tokens if tokens else None,
        itl_ms=() if between is None else (between,),
        e2el_ms=times.e2el_ms,
    )


def as_aiperf(times: StreamTimes) -> ToolTimes:
    """AIPerf (src/aiperf/metrics/types: ttft_metric.py, request_latency_metric.py, inter_token_latency_metric.py).

    Both ends are responses with content or reasoning: TTFT the first, request latency the last. "Inter token latency" =
    (latency - TTFT) / (tokens - 1), one figure a request; it has no TPOT. (Its "inter chunk latency" is the mean of our
    `itl_ms`. Releases before `content_responses` counted every response.)
    """
    between = _per_token(times.last_text_ms - times.ttft_ms, times.tokens_out)
    return ToolTimes(
        ttft_ms=times.ttft_ms,
        itl_ms=() if between is None else (between,),
        e2el_ms=times.last_text_ms,
    )


TOOLS = {"modelops": as_modelops, "vllm": as_vllm, "guidellm": as_guidellm, "aiperf": as_aiperf}


def _per_token(span_ms: float, tokens: int | None) -> float | None:
    """A span divided by the tokens after the first; none for an answer of one token or of unknown length."""
    return span_ms / (tokens - 1) if tokens is not None and tokens > 1 else None


def stored_times(row: Row) -> StreamTimes | None:
    """The times of a `perf_requests` row; None when the request failed, or the row is of a layout without gaps."""
    needed = ("first_chunk_ms", "ttft_ms", "e2el_ms", "itl_ms", "chunk_gaps_ms")
    if row["status"] != "ok" or any(row[name] is None for name in needed):
        return None
    return StreamTimes(
        first_chunk_ms=row["first_chunk_ms"],
        ttft_ms=row["ttft_ms"],
        ttfot_ms=row["ttfot_ms"],
        e2el_ms=row["e2el_ms"],
        itl_ms=tuple(json.loads(row["itl_ms"])),
        chunk_gaps_ms=tuple(json.loads(row["chunk_gaps_ms"])),
        tokens_out=row["tokens_out"],
    )


def level_of(request: Mapping[str, Any]) -> str:
    """How a level of load is called in a metric's name: its concurrency (closed loop) or its rate (open loop)."""
    rate = request["rate"]
    return str(request["concurrency"]) if rate is None else f"{rate:g}"


def load_table(rows: Sequence[Row], tool: Tool) -> list[dict[str, Any]]:
    """Throughput and latency of every level in the words of one tool, from stored requests.

    Throughput is over the time from the first request's start to the last one's end, ramp and tail included, as in
    `vllm bench serve`. Latencies are from the moment a request was sent, as all four tools have it: what an open loop's
    request waited for before that has a column of its own, `client_queue_p95_ms`.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        loop = "closed" if row["rate"] is None else "open"
        groups.setdefault((loop, level_of(row)), []).append(row)
    return [{"loop": loop, "level": level, **_level_line(own, tool)} for (loop, level), own in groups.items()]


def _level_line(rows: Sequence[Row], tool: Tool) -> dict[str, Any]:
    known = [t for row in rows if (t := stored_times(row)) is not None]
    named = [TOOLS[tool](t) for t in known]
    begun = min(row["started_at"].timestamp() for row in rows)
    ended = max(row["started_at"].timestamp() + _lasted_ms(row) / 1000 for row in rows)
    seconds = ended - begun
    ok = [row for row in rows if row["status"] == "ok"]

    def at(values: Sequence[float | None], q: float) -> float | None:
        present = [v for v in values if v is not None]
        return percentile(present, q) if present else None

    return {
        "requests": len(rows),
        "failed": len(rows) - len(ok),
        "requests_per_s": len(ok) / seconds if seconds > 0 else None,
        "output_tokens_per_s": sum(row["tokens_out"] or 0 for row in ok) / seconds if seconds > 0 else None,
        "client_queue_p95_ms": at([row["client_queue_ms"] for row in rows], 0.95),
        "ttft_p50_ms": at([n.ttft_ms for n in named], 0.5),
        "ttft_p95_ms": at([n.ttft_ms for n in named], 0.95),
        "tpot_p50_ms": at([n.tpot_ms for n in named], 0.5),
        "itl_p50_ms": at([gap for n in named for gap in n.itl_ms], 0.5),
        "itl_p95_ms": at([gap for n in named for gap in n.itl_ms], 0.95),
        "e2el_p50_ms": at([n.e2el_ms for n in named], 0.5),
        "e2el_p95_ms": at([n.e2el_ms for n in named], 0.95),
    }


def _lasted_ms(row: Row) -> float:
    return float((row["client_queue_ms"] or 0.0) + (row["e2el_ms"] or 0.0))


def poisson_arrivals(rate: float, count: int, seed: int) -> tuple[float, ...]:
    """Seconds after the start at which requests of an open loop are due.

    Gaps are exponential with mean 1 / rate, so arrivals are a Poisson process, and then scaled so that the last one is
    due at count / rate: the rate offered is the rate asked for, as `vllm bench serve` does with `--burstiness 1`.
    """
    rng = random.Random(seed)  # noqa: S311 - not a secret
    due: list[float] = []
    at = 0.0
    for _ in range(count):
        at += rng.expovariate(rate)
        due.append(at)
    return tuple(moment * (count / rate) / at for moment in due)
