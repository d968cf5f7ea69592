"""What a person sees on an asset's page: numbers first (they become plots), then a small table, then the details."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.domain.summary import (
    findings_table,
    ladder_table,
    report_table,
    support_table,
    verdict_table,
)
from modelops_dagster.domain.verdicts import Verdict

Metadata = dict[str, Any]


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows as a table that the UI renders inline; every cell becomes text, None a dash."""
    columns = list(rows[0]) if rows else ["nothing"]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({c: "-" if row.get(c) is None else str(row[c]) for c in columns}) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(c) for c in columns]),
    )


def ladder_metadata(endpoint: Endpoint) -> Metadata:
    """Speed and start time as plots, the ladder as a table."""
    return {
        "tokens_per_second": endpoint.tokens_per_second,
        "start_seconds": endpoint.start_seconds,
        "engine": f"{endpoint.engine} {endpoint.engine_version}",
        "rung": endpoint.rung,
        "ladder": table(ladder_table(endpoint)),
        "url": dg.MetadataValue.url(endpoint.url),
        "name": endpoint.name,
        "checkpoint": endpoint.checkpoint.digest,
    }


def preflight_metadata(preflight: Preflight) -> Metadata:
    """The plan in one line and in numbers, then how they come about, then what was found."""
    plan = preflight.plan
    layout = plan.layout if plan is not None else None
    arithmetic = [f"- {line}" for line in plan.arithmetic] if plan is not None else []
    alternatives = [f"- or: {line}" for line in plan.alternatives] if plan is not None else []
    return {
        "gpus_needed": layout.gpus if plan is not None and layout is not None and plan.hardware.kind == "cuda" else 0,
        "nodes_needed": layout.nodes if layout is not None else 0,
        "plan": preflight.summary,
        "engines": table(support_table(preflight)),
        "findings": table(findings_table(preflight.findings)),
        "arithmetic": dg.MetadataValue.md("\n".join([*arithmetic, *alternatives]) or "none"),
    }


def report_metadata(report: SuiteReport) -> Metadata:
    """Every metric as a number of its own, then the table with intervals."""
    numbers: Metadata = {m.name: m.value for m in report.metrics if m.value is not None}
    return {
        **numbers,
        "n_samples": report.n_samples,
        "n_unscored": report.n_unscored,
        "inference_seconds": round(report.inference_seconds, 2),
        "metrics": table(report_table(report)),
        "failing": dg.MetadataValue.md("\n".join(f"- {line}" for line in report.failing) or "none"),
        "instrument": report.instrument,
        "suite_digest": report.suite_digest,
        "samples": dg.MetadataValue.path(report.samples_file),
    }


def verdict_metadata(verdict: Verdict) -> Metadata:
    """The sentence, then the criteria; what a criterion has to add stands below, where there is room for it."""
    rows = verdict_table(verdict)
    required = [c for c in verdict.criteria if c.tier == "required"]
    notes = {str(row["note"]): f"- {row['criterion']}: {row['note']}" for row in rows if row["note"]}
    return {
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "required": len(required),
        "required_held": sum(c.outcome == "pass" for c in required),
        "criteria": table([{k: v for k, v in row.items() if k != "note"} for row in rows]),
        "notes": dg.MetadataValue.md("\n".join(notes.values()) or "none"),
        "policy": f"{verdict.policy} ({verdict.policy_digest[:19]})",
        "verdict_id": verdict.verdict_id,
        "commit_hash": verdict.commit_hash,
    }
