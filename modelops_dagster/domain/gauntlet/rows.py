"""The flat rows that land in the score history: one per sample, per metric and per load request."""

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.gauntlet.samples import Sample, canonical
from modelops_dagster.domain.gauntlet.scorers import Scored
from modelops_dagster.domain.values import Value

Row = dict[str, Any]


class RunContext(Value):
    """Who was asked, on whose behalf, with which instrument: the same in every row of one suite run."""

    run_id: str
    lane: str
    endpoint: Endpoint
    suite: str
    suite_digest: str
    instrument: str
    instrument_parts: str = Field(default="", description="the instrument as JSON, part by part; empty when unknown")

    @property
    def where(self) -> Row:
        """The columns that every kind of row starts with."""
        revision = self.endpoint.checkpoint.revision
        return {
            "run_id": self.run_id,
            "repo_id": revision.repo_id,
            "commit_hash": revision.commit_hash,
            "lane": self.lane,
            "endpoint": self.endpoint.name,
        }

    @cached_property
    def columns(self) -> Row:
        """The columns a sample row starts with."""
        return suite_columns(self)

    @property
    def served_by(self) -> str:
        """The same bytes served the same way on the same lane: answers of one may stand for the other's."""
        e = self.endpoint
        served = (e.checkpoint.digest, e.served_model_name, e.max_context, e.engine, e.engine_version, e.variant)
        return canonical([served, self.lane])

    @property
    def journal_key(self) -> str:
        """Two runs with this key ask the same thing of the same bytes served the same way: one may resume the other.

        How long a run may take is no part of it: what is left of a budget differs from run to run.
        """
        return canonical([self.served_by, self.instrument])


def sample_row(
    context: RunContext, sample: Sample, epoch: int, completion: Completion, scored: Scored, started_at: datetime
) -> Row:
    """One asked sample. `input` is the sample's own input as JSON; `score` is None when it could not be scored."""
    return {
        **context.columns,
        "item_uid": sample.uid,
        "sample_id": sample.id,
        "category": sample.metadata.category,
        "cluster": sample.cluster,
        "weight": sample.metadata.weight,
        "expected": sample.metadata.expected,
        "severity": sample.metadata.severity,
        "epoch": epoch,
        "input": sample.asked,
        **completion_columns(completion),
        "outcome_class": scored.outcome_class,
        "score": scored.score,
        "explanation": scored.explanation,
        "started_at": started_at,
    }


def suite_columns(context: RunContext) -> Row:
    """The columns a sample row starts with."""
    return {
        **context.where,
        "engine": context.endpoint.engine,
        "engine_version": context.endpoint.engine_version,
        "engine_variant": context.endpoint.variant,
        "suite": context.suite,
        "suite_digest": context.suite_digest,
        "instrument": context.instrument,
    }


def completion_columns(completion: Completion) -> Row:
    """What a sample row keeps of a completion."""
    return {
        "completion": completion.text,
        "reasoning": completion.reasoning,
        "finish_reason": completion.finish_reason,
        "tokens_in": completion.tokens_in,
        "tokens_out": completion.tokens_out,
        "latency_ms": completion.e2el_ms,
        "ttft_ms": completion.ttft_ms,
        "attempts": completion.attempts,
        "cache_hit": int(completion.cache_hit),
    }


def request_row(context: RunContext, request: Mapping[str, Any]) -> Row:
    """One load request, from a record of the performance suite's result."""
    gaps = request["itl_ms"]
    return {
        **context.where,
        "suite": context.suite,
        "instrument": context.instrument,
        "concurrency": request["concurrency"],
        "rate": request["rate"],
        "request": request["request"],
        "status": request["error"] or "ok",
        "tokens_in": request["tokens_in"],
        "tokens_out": request["tokens_out"],
        "tokens_out_source": request["tokens_out_source"],
        "tokens_per_chunk": request["tokens_per_chunk"],
        "client_queue_ms": request["client_queue_ms"],
        "first_chunk_ms": request["first_chunk_ms"],
        "ttft_ms": request["ttft_ms"],
        "ttfot_ms": request["ttfot_ms"],
        "tpot_ms": request["tpot_ms"],
        "itl_mean_ms": sum(gaps) / len(gaps) if gaps else None,
        "itl_ms": canonical([round(gap, 4) for gap in gaps]),
        "chunk_gaps_ms": canonical([round(gap, 4) for gap in request["chunk_gaps_ms"]]),
        "e2el_ms": request["e2el_ms"],
        "started_at": datetime.fromisoformat(request["started_at"]),
    }


def metric_columns(metric: Metric) -> Row:
    """What a row of `scores` says of the metric itself."""
    return {
        "metric": metric.name,
        "value": metric.value,
        "ci_low": metric.ci_low,
        "ci_high": metric.ci_high,
        "n": metric.n,
        "unit": metric.unit,
    }


def score_rows(report: SuiteReport, lane: str) -> list[Row]:
    """One row per metric of the report, missing values included."""
    endpoint = report.endpoint
    return [
        {
            "run_id": report.run_id,
            "repo_id": endpoint.checkpoint.revision.repo_id,
            "commit_hash": endpoint.checkpoint.revision.commit_hash,
            "lane": lane,
            "endpoint": endpoint.name,
            "engine": endpoint.engine,
            "engine_version": endpoint.engine_version,
            "engine_variant": endpoint.variant,
            "scheme": endpoint.checkpoint.scheme,
            "suite": report.suite,
            "suite_digest": report.suite_digest,
            "instrument": report.instrument,
            "instrument_parts": report.instrument_parts or None,
            **metric_columns(metric),
            "n_samples": report.n_samples,
            "n_unscored": report.n_unscored,
            "evaluated_at": report.ended_at,
        }
        for metric in report.metrics
    ]
