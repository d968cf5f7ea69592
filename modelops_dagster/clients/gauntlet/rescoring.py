"""A suite scored again from answers that are stored: for a model that cannot be asked any more."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.runner import Land, run_context
from modelops_dagster.clients.gauntlet.sandbox import run_code
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.aggregates import counted, dataset_metrics
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.rows import Row, RunContext, sample_row, score_rows
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import score_completion
from modelops_dagster.domain.gauntlet.suite import Suite

# What of the instrument decides how a model was asked; the rest decides how its answer was scored.
ASKING = ("runner", "prompts", "sampling", "requests", "chain")


def rescore_suite(
    suite: Suite,
    endpoint: Endpoint,
    stored: Sequence[Row],
    stored_parts: Mapping[str, Any],
    *,
    lane: str,
    run_id: str,
    land: Land,
    panel: Panel | None = None,
) -> SuiteReport:
    """Score stored answers with today's scorers and graders, as a run of its own on today's instrument.

    The model is asked nothing. For callers without an event loop.

    Args:
        stored: the model's sample rows of one earlier run of the suite.
        stored_parts: the instrument of that run, part by part.

    Raises:
        EvaluationFailed: the suite would be asked otherwise than it was, or asks something that was not asked.
    """
    if suite.kind != "dataset":
        raise EvaluationFailed(f"suite {suite.name!r} measures a running endpoint, and there is none")
    samples = suite.asked(endpoint.max_context or None)
    panel = panel or Panel()
    context = run_context(suite, samples, endpoint, lane, run_id, Chain(), panel.scoring(suite, [endpoint]))
    begun = datetime.now(UTC)
    rescored = _rescored(suite, samples, context, stored, stored_parts)
    graded = asyncio.run(panel.grade(suite, rescored, [endpoint]))
    known = counted(graded.rows)
    report = SuiteReport(
        suite=suite.name,
        suite_digest=context.suite_digest,
        instrument=context.instrument,
        run_id=run_id,
        endpoint=endpoint,
        metrics=dataset_metrics(suite.spec.metrics, graded.rows, graded.calibrations),
        n_samples=len(known),
        n_unscored=sum(row["score"] is None for row in known),
        started_at=begun,
        ended_at=datetime.now(UTC),
        inference_seconds=0.0,
        samples_file="",
        kind=suite.kind,
        specs=suite.spec.metrics,
        instrument_parts=context.instrument_parts,
        n_reserve=suite.n_reserve,
        graders=graded.summaries,
        calibrations=graded.calibrations,
        notes=graded.notes,
    )
    whose = {"repo_id": endpoint.checkpoint.revision.repo_id, "run_id": run_id}
    if graded.judgements:
        land("judgements", graded.judgements, **whose)
    path = land("samples", graded.rows, **whose)
    land("scores", score_rows(report, lane), **whose)
    return report.model_copy(update={"samples_file": str(path)})


def _rescored(
    suite: Suite,
    samples: Sequence[Sample],
    context: RunContext,
    stored: Sequence[Row],
    stored_parts: Mapping[str, Any],
) -> list[Row]:
    """The stored answers with the scores that code gives them today."""
    parts = json.loads(context.instrument_parts)
    changed = [part for part in ASKING if stored_parts.get(part) != parts.get(part)]
    if changed:
        raise EvaluationFailed(f"it would be asked differently than it was ({', '.join(changed)} changed)")
    answers = {(row["sample_id"], row["epoch"]): row for row in stored if row["outcome_class"] != "infra_error"}
    wanted = [(s, e) for e in range(suite.spec.sampling.epochs) for s in samples]
    missing = [s.id for s, e in wanted if answers.get((s.id, e), {}).get("input") != s.asked]
    if missing:
        raise EvaluationFailed(f"{len(missing)} of {len(wanted)} samples were never asked of it, such as {missing[0]}")
    rescored: list[Row] = []
    for sample, epoch in wanted:
        row = answers[sample.id, epoch]
        completion = _completion(row)
        scored = score_completion(sample, completion, run_code)
        rescored.append(sample_row(context, sample, epoch, completion, scored, row["started_at"]))
    return rescored


def _completion(row: Row) -> Completion:
    return Completion(
        text=row["completion"] or "",
        reasoning=row["reasoning"] or "",
        finish_reason=row["finish_reason"],
        tokens_in=row["tokens_in"],
        tokens_out=row["tokens_out"],
        ttft_ms=row["ttft_ms"],
        e2el_ms=row["latency_ms"],
        attempts=row["attempts"] or 1,
        cache_hit=bool(row["cache_hit"]),
    )
