"""What the score history holds: its tables and columns, and the row that a verdict becomes."""

import json
from typing import Literal

from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.verdicts import Verdict

ColumnType = Literal["text", "float", "int", "timestamp"]

_IDENTITY: tuple[tuple[str, ColumnType], ...] = (
    ("run_id", "text"),
    ("repo_id", "text"),
    ("commit_hash", "text"),
    ("lane", "text"),
    ("endpoint", "text"),
)

TABLES: dict[str, tuple[tuple[str, ColumnType], ...]] = {
    # one row per completion
    "samples": (
        *_IDENTITY,
        ("engine", "text"),
        ("engine_version", "text"),
        ("engine_variant", "text"),
        ("suite", "text"),
        ("suite_digest", "text"),
        ("instrument", "text"),
        ("arm", "text"),
        ("turn", "int"),
        ("item_uid", "text"),
        ("sample_id", "text"),
        ("category", "text"),
        ("cluster", "text"),
        ("weight", "float"),
        ("expected", "text"),
        ("severity", "text"),
        ("epoch", "int"),
        ("input", "text"),
        ("completion", "text"),
        ("reasoning", "text"),
        ("finish_reason", "text"),
        ("outcome_class", "text"),
        ("score", "float"),
        ("explanation", "text"),
        ("tokens_in", "int"),
        ("tokens_out", "int"),
        ("latency_ms", "float"),
        ("ttft_ms", "float"),
        ("attempts", "int"),
        ("cache_hit", "int"),
        ("started_at", "timestamp"),
    ),
    # one row per metric of a suite
    "scores": (
        *_IDENTITY,
        ("engine", "text"),
        ("engine_version", "text"),
        ("engine_variant", "text"),
        ("scheme", "text"),
        ("suite", "text"),
        ("suite_digest", "text"),
        ("instrument", "text"),
        ("instrument_parts", "text"),
        ("metric", "text"),
        ("value", "float"),
        ("ci_low", "float"),
        ("ci_high", "float"),
        ("n", "int"),
        ("unit", "text"),
        ("n_samples", "int"),
        ("n_unscored", "int"),
        ("evaluated_at", "timestamp"),
    ),
    # one row per request of a performance run
    "perf_requests": (
        *_IDENTITY,
        ("suite", "text"),
        ("instrument", "text"),
        # closed loop: concurrency; open loop: rate in requests/s
        ("concurrency", "int"),
        ("rate", "float"),
        ("request", "int"),
        ("status", "text"),
        ("tokens_in", "int"),
        ("tokens_out", "int"),
        ("tokens_out_source", "text"),
        ("tokens_per_chunk", "float"),
        ("client_queue_ms", "float"),
        ("first_chunk_ms", "float"),
        ("ttft_ms", "float"),
        ("ttfot_ms", "float"),
        ("tpot_ms", "float"),
        ("itl_mean_ms", "float"),
        # both JSON lists of gaps: between chunks with text, between all chunks
        ("itl_ms", "text"),
        ("chunk_gaps_ms", "text"),
        ("e2el_ms", "float"),
        ("started_at", "timestamp"),
    ),
    # one row per call of a grader about an answer; points is a JSON object
    "judgements": (
        *_IDENTITY,
        ("suite", "text"),
        ("instrument", "text"),
        ("arm", "text"),
        ("item_uid", "text"),
        ("sample_id", "text"),
        ("category", "text"),
        ("epoch", "int"),
        ("answer_uid", "text"),
        ("grader", "text"),
        ("grader_model", "text"),
        ("prompt_version", "int"),
        ("placement", "text"),
        ("repeat", "int"),
        ("verdict", "text"),
        ("points", "text"),
        ("reason", "text"),
        ("raw", "text"),
        ("status", "text"),
        ("attempts", "int"),
        ("latency_ms", "float"),
        ("tokens_in", "int"),
        ("tokens_out", "int"),
        ("judged_at", "timestamp"),
    ),
    # one row per label that a person gave; run_id is the run whose answer it is about
    "labels": (
        *_IDENTITY,
        ("suite", "text"),
        ("item_uid", "text"),
        ("sample_id", "text"),
        ("category", "text"),
        ("reason", "text"),
        ("label_id", "text"),
        ("kind", "text"),
        ("answer_uid", "text"),
        ("other_uid", "text"),
        ("value", "float"),
        ("author", "text"),
        ("labelled_at", "timestamp"),
        ("seconds", "float"),
        ("comment", "text"),
        ("source", "text"),
    ),
    # one row per decision; criteria, comparisons, evidence and policy_document are JSON text
    "verdicts": (
        ("verdict_id", "text"),
        ("repo_id", "text"),
        ("commit_hash", "text"),
        ("lane", "text"),
        ("endpoint", "text"),
        ("outcome", "text"),
        ("reason", "text"),
        ("policy", "text"),
        ("policy_digest", "text"),
        ("criteria", "text"),
        ("decided_at", "timestamp"),
        ("closes_at", "timestamp"),
        ("incumbent_note", "text"),
        ("comparisons", "text"),
        ("evidence", "text"),
        ("policy_document", "text"),
    ),
}


JSON_LISTS = ("criteria", "comparisons", "evidence")


def verdict_row(verdict: Verdict) -> Row:
    """The `verdicts` row of a decision."""
    row: Row = verdict.model_dump()
    for column in JSON_LISTS:
        row[column] = "[" + ",".join(part.model_dump_json() for part in getattr(verdict, column)) + "]"
    row["policy_document"] = verdict.policy_document.model_dump_json() if verdict.policy_document else None
    return row


def verdict_from_row(row: Row) -> Verdict:
    """The decision a `verdicts` row holds. Rows of older layouts lack the evidence.

    Raises:
        pydantic.ValidationError: the row was not written by `verdict_row`.
    """
    parts = {column: json.loads(row[column] or "[]") for column in JSON_LISTS}
    policy = json.loads(row["policy_document"]) if row["policy_document"] else None
    return Verdict.model_validate(
        {**row, **parts, "policy_document": policy, "incumbent_note": row["incumbent_note"] or ""}
    )
