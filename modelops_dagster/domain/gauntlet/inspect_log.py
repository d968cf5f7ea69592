"""A stored suite run as an eval log of Inspect (inspect_ai, log format 2), for its viewer and its readers.

Written as plain data: the package is not needed. What Inspect has no field for stands under `metadata`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.samples import Sample, digest

LOG_VERSION = 2
SCORER = "modelops"
# the classes of an answer that never came, or that says nothing of the model
FAILED = ("infra_error", "unscored")
STOP_REASONS = {"stop": "stop", "length": "max_tokens", "tool_calls": "tool_calls", "content_filter": "content_filter"}
DETAILS = (
    "category", "cluster", "weight", "expected", "severity", "item_uid", "outcome_class", "arm", "turn", "attempts",
    "cache_hit", "ttft_ms", "latency_ms", "finish_reason",
)  # fmt: skip


def inspect_log(rows: Sequence[Row], metrics: Sequence[Row], samples: Mapping[str, Sample]) -> dict[str, Any]:
    """One log from the rows that one endpoint's answers to one suite left in one run.

    Args:
        rows: of the table `samples`, at least one.
        metrics: of the table `scores`; may be empty, as they are for an incumbent that was asked beside a candidate.
        samples: the suites' samples by uid, for targets and choices; of one that is not there both stay empty.

    Returns:
        A document that is JSON; the same rows give the same document.
    """
    first = rows[0]
    identity = digest([first[c] for c in ("run_id", "endpoint", "suite", "instrument")]).removeprefix("sha256:")[:22]
    started = min(row["started_at"] for row in rows)
    ended = max([row["evaluated_at"] for row in metrics] or [row["started_at"] for row in rows])
    parts: dict[str, Any] = next(
        (json.loads(row["instrument_parts"]) for row in metrics if row["instrument_parts"]), {}
    )
    sampling = _generation(parts.get("sampling") or {})
    failed = sum(_failed(row) for row in rows)
    return {
        "version": LOG_VERSION,
        "status": "success",
        "eval": _spec(rows, started, identity, parts, sampling),
        "plan": {"name": "modelops", "steps": [{"solver": "generate", "params": {}}], "config": sampling},
        "results": {
            "total_samples": len(rows),
            "completed_samples": len(rows) - failed,
            "scores": [_score(rows, metrics)],
            "metadata": {"without_value": [row["metric"] for row in metrics if row["value"] is None]},
        },
        "stats": {
            "started_at": _time(started),
            "completed_at": _time(ended),
            "model_usage": {first["repo_id"]: _usage(_sum(rows, "tokens_in"), _sum(rows, "tokens_out"))},
        },
        "samples": [_sample(row, samples.get(row["item_uid"]), identity) for row in rows],
    }


def log_name(log: Mapping[str, Any]) -> str:
    """The file name by which Inspect's viewer finds the log: `<time>_<suite>_<id>.json`."""
    spec = log["eval"]
    # an imported suite is called as another tool calls its task, slashes and all
    task = re.sub(r"[^A-Za-z0-9]+", "-", spec["task"]).strip("-")
    return f"{spec['created'].replace(':', '-')}_{task}_{spec['task_id']}.json"


def _spec(
    rows: Sequence[Row], started: datetime, identity: str, parts: dict[str, Any], sampling: dict[str, Any]
) -> dict[str, Any]:
    first = rows[0]
    ids = list(dict.fromkeys(str(row["sample_id"]) for row in rows))
    return {
        "eval_id": identity,
        "run_id": first["run_id"],
        "created": _time(started),
        "task": first["suite"],
        "task_id": identity,
        "task_version": first["suite_digest"] or 0,
        "dataset": {"name": first["suite"], "samples": len(ids), "sample_ids": ids, "shuffled": False},
        "model": first["repo_id"],
        "model_generate_config": sampling,
        "model_args": {
            c: first[c]
            for c in ("commit_hash", "lane", "endpoint", "engine", "engine_version", "engine_variant")
            if first[c] is not None
        },
        "config": {"epochs": len({row["epoch"] for row in rows})},
        "packages": {},
        "metadata": {"instrument": first["instrument"], "instrument_parts": parts},
        "scorers": [{"name": SCORER, "options": {}, "metrics": [], "metadata": {}}],
    }


def _score(rows: Sequence[Row], metrics: Sequence[Row]) -> dict[str, Any]:
    scored = sum(row["score"] is not None for row in rows)
    return {
        "name": SCORER,
        "scorer": SCORER,
        "scored_samples": scored,
        "unscored_samples": len(rows) - scored,
        "params": {},
        "metrics": {
            row["metric"]: {
                "name": row["metric"],
                "value": row["value"],
                "params": {},
                "metadata": {c: row[c] for c in ("ci_low", "ci_high", "n", "unit") if row[c] is not None},
            }
            for row in metrics
            if row["value"] is not None
        },
    }


def _sample(row: Row, known: Sample | None, identity: str) -> dict[str, Any]:
    asked = _asked(row["input"])
    model, usage = row["repo_id"], _usage(row["tokens_in"] or 0, row["tokens_out"] or 0)
    answer = {"role": "assistant", "source": "generate", "model": model, "content": _content(row)}
    choice = {"message": answer, "stop_reason": STOP_REASONS.get(row["finish_reason"] or "", "unknown")}
    seconds = None if row["latency_ms"] is None else row["latency_ms"] / 1000
    failed = _failed(row)
    said = row["explanation"] or row["outcome_class"]
    out: dict[str, Any] = {
        "id": row["sample_id"],
        "epoch": row["epoch"] + 1,
        "input": asked,
        "choices": list(known.choices) if known is not None and known.choices else None,
        "target": (known.target if isinstance(known.target, str) else list(known.target)) if known is not None else "",
        "messages": _messages(asked, known),
        "output": {"model": model, "choices": [], "completion": "", "usage": usage, "time": seconds},
        "scores": {},
        "metadata": {c: row[c] for c in DETAILS if row[c] is not None},
        "model_usage": {model: usage},
        "started_at": _time(row["started_at"]),
        "total_time": seconds,
        "working_time": seconds,
        "uuid": digest([identity, row["item_uid"], row["sample_id"], row["epoch"]]).removeprefix("sha256:")[:22],
    }
    if failed:
        out["error"] = {"message": said, "traceback": "", "traceback_ansi": ""}
        out["output"]["error"] = said
    else:
        out["messages"].append(answer)
        out["output"] |= {"choices": [choice], "completion": row["completion"] or ""}
    if row["score"] is None:
        out["metadata"]["unscored_because"] = said
    else:
        out["scores"][SCORER] = {
            "value": row["score"],
            "answer": row["completion"],
            "explanation": row["explanation"] or None,
            "metadata": {"outcome_class": row["outcome_class"]},
        }
    return out


def _failed(row: Row) -> bool:
    return row["score"] is None and row["outcome_class"] in FAILED


def _asked(text: str) -> Any:
    """The sample's own input; rows of older layouts hold the bare text."""
    try:
        asked = json.loads(text)
    except ValueError:
        return text
    return asked if isinstance(asked, str | list) else text


def _messages(asked: Any, known: Sample | None) -> list[dict[str, str]]:
    """What was sent, choices included where they are known."""
    if known is not None:
        return known.messages()
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else [*asked]


def _content(row: Row) -> Any:
    text = row["completion"] or ""
    if not row["reasoning"]:
        return text
    return [{"type": "reasoning", "reasoning": row["reasoning"]}, {"type": "text", "text": text}]


def _generation(sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {k: sampling[k] for k in ("temperature", "top_p", "max_tokens", "seed") if sampling.get(k) is not None}


def _usage(tokens_in: int, tokens_out: int) -> dict[str, int]:
    return {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _sum(rows: Sequence[Row], column: str) -> int:
    return sum(row[column] or 0 for row in rows)


def _time(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
