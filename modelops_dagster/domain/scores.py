"""What the score history holds: its tables and columns, and the row that a verdict becomes."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.registration import Registration
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
        # of a pair: the incumbent's answer, and how much the candidate's is preferred (1, 0.5, 0)
        ("other_uid", "text"),
        ("preference", "float"),
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
        ("reopens", "text"),
        ("incumbent_note", "text"),
        ("comparisons", "text"),
        ("evidence", "text"),
        ("policy_document", "text"),
    ),
    # one row per rung of the ladder that was tried; `reason` is null on the one the model stands on
    "rungs": (
        *_IDENTITY,
        ("checkpoint_digest", "text"),
        ("position", "int"),
        ("rung", "text"),
        ("engine_version", "text"),
        ("reason", "text"),
        ("detail", "text"),
        ("seconds", "float"),
        ("start_seconds", "float"),
        ("tokens_per_second", "float"),
        ("tried_at", "timestamp"),
    ),
    # one row per registration with the gateway; tags is a JSON list
    "registrations": (
        *_IDENTITY,
        ("alias", "text"),
        ("verdict_id", "text"),
        ("outcome", "text"),
        ("tags", "text"),
        ("route_version", "int"),
        # of the commit on the Hub; null where the Watcher did not find it
        ("first_seen_at", "timestamp"),
        ("requested_at", "timestamp"),
        ("registered_at", "timestamp"),
    ),
    # one row per model, lane and suite of a backfill, whatever came of it
    "backfills": (
        *_IDENTITY,
        ("suite", "text"),
        ("suite_digest", "text"),
        ("outcome", "text"),
        ("reason", "text"),
        ("seconds", "float"),
        ("n_samples", "int"),
        ("started_at", "timestamp"),
        ("ended_at", "timestamp"),
    ),
}

# What a column meant before it was there, as SQL; other columns that a file of an older layout lacks are null.
MIGRATED: dict[str, dict[str, str]] = {"samples": {"weight": "1.0"}}

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


def rung_rows(
    checkpoint: Checkpoint,
    ladder: Sequence[RungResult],
    *,
    run_id: str,
    lane: str,
    endpoint_name: str,
    at: datetime,
    endpoint: Endpoint | None = None,
) -> list[Row]:
    """One `rungs` row per rung that was tried, in order; `endpoint` is what came of it, None when no rung held."""
    speed = (endpoint.start_seconds, endpoint.tokens_per_second) if endpoint is not None else (None, None)
    return [
        {
            "run_id": run_id,
            "repo_id": checkpoint.revision.repo_id,
            "commit_hash": checkpoint.revision.commit_hash,
            "lane": lane,
            "endpoint": endpoint_name,
            "checkpoint_digest": checkpoint.digest,
            "position": position,
            "rung": tried.rung,
            "engine_version": tried.engine_version or None,
            "reason": tried.reason,
            "detail": tried.detail or None,
            "seconds": float(tried.seconds),
            "start_seconds": speed[0] if tried.reason is None else None,
            "tokens_per_second": speed[1] if tried.reason is None else None,
            "tried_at": at,
        }
        for position, tried in enumerate(ladder)
    ]


def registration_row(
    done: Registration,
    verdict: Verdict,
    *,
    run_id: str,
    first_seen_at: datetime | None,
    requested_at: datetime,
    registered_at: datetime,
) -> Row:
    """The `registrations` row of what the gateway was told.

    Args:
        first_seen_at: when the commit was first seen on the Hub, UTC; None when the Watcher did not find it.
        requested_at: when the run was asked for, UTC.
    """
    return {
        "run_id": run_id,
        "repo_id": verdict.repo_id,
        "commit_hash": done.commit_hash,
        "lane": verdict.lane,
        "endpoint": done.endpoint,
        "alias": done.alias,
        "verdict_id": verdict.verdict_id,
        "outcome": done.outcome,
        "tags": json.dumps(list(done.tags)),
        "route_version": done.route_version,
        "first_seen_at": first_seen_at,
        "requested_at": requested_at,
        "registered_at": registered_at,
    }
