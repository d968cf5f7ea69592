"""Counts over the answers of one suite: statuses, finish reasons, tokens, times and reasoning."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from modelops_dagster.domain.gauntlet.completion import Completion


@dataclass(slots=True)
class ResponseCounts:
    """What the interceptor `response_stats` collects. Tokens of cached answers are counted apart: they cost nothing."""

    answers: int = 0
    cache_hits: int = 0
    retries: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    finish_reasons: Counter[str] = field(default_factory=Counter)
    tool_calls: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    latency_ms: float = 0.0
    slowest_ms: float = 0.0
    timed: int = 0

    def add(self, got: Completion) -> None:
        self.answers += 1
        self.cache_hits += got.cache_hit
        self.retries += max(0, got.attempts - 1)
        self.statuses[str(got.status or "none")] += 1
        if got.error:
            self.errors[got.error] += 1
        else:
            self.finish_reasons[got.finish_reason or "none"] += 1
        self.tool_calls += len(got.tool_calls)
        kind = "cached" if got.cache_hit else "new"
        self.tokens[f"in_{kind}"] += got.tokens_in or 0
        self.tokens[f"out_{kind}"] += got.tokens_out or 0
        if got.e2el_ms is not None:
            self.timed += 1
            self.latency_ms += got.e2el_ms
            self.slowest_ms = max(self.slowest_ms, got.e2el_ms)

    def summary(self) -> dict[str, Any]:
        """The counts as JSON; times in ms."""
        return {
            "answers": self.answers,
            "cache_hits": self.cache_hits,
            "retries": self.retries,
            "errors": dict(self.errors),
            "statuses": dict(self.statuses),
            "finish_reasons": dict(self.finish_reasons),
            "tool_calls": self.tool_calls,
            "tokens": dict(self.tokens),
            "mean_latency_ms": self.latency_ms / self.timed if self.timed else None,
            "slowest_ms": self.slowest_ms if self.timed else None,
        }


@dataclass(slots=True)
class ReasoningCounts:
    """What the interceptor `reasoning` collects."""

    with_reasoning: int = 0
    finished: int = 0
    unfinished: int = 0
    reasoning_words: int = 0
    answer_words: int = 0

    def add(self, got: Completion) -> None:
        if not got.is_ok:
            return
        self.answer_words += len(got.text.split())
        if got.reasoning:
            self.with_reasoning += 1
            self.reasoning_words += len(got.reasoning.split())
            self.finished += not got.reasoning_is_cut
        self.unfinished += got.reasoning_is_cut

    def summary(self) -> dict[str, Any]:
        """The counts as JSON."""
        return {
            "with_reasoning": self.with_reasoning,
            "finished": self.finished,
            "unfinished": self.unfinished,
            "reasoning_words": self.reasoning_words,
            "answer_words": self.answer_words,
        }
