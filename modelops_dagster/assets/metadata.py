"""What a person sees on an asset's page: numbers first (they become plots), then a small table, then the details."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import dagster as dg

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.plan import ReleasePlan
from modelops_dagster.domain.preflight import Preflight, Severity
from modelops_dagster.domain.recovery import Recovery
from modelops_dagster.domain.registration import Registration
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.domain.summary import (
    criterion_notes,
    findings_table,
    ladder_table,
    load_summary,
    plan_table,
    recovery_table,
    rehearsal_table,
    report_table,
    support_table,
    verdict_table,
)
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels

Metadata = dict[str, Any]


def table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows as a table that the UI renders inline; every cell becomes text, None a dash."""
    columns = list(rows[0]) if rows else ["nothing"]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({c: "-" if row.get(c) is None else str(row[c]) for c in columns}) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(c) for c in columns]),
    )


def hub_link(release: Release) -> dg.MetadataValue[Any]:
    """The revision's page on the Hub it was read from."""
    revision = release.revision
    return dg.MetadataValue.url(f"{release.hub_url.rstrip('/')}/{revision.repo_id}/tree/{revision.commit_hash}")


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


def rehearsal_metadata(rehearsal: Rehearsal) -> Metadata:
    """What the rungs did with made-up weights, or why none was tried."""
    rows: Metadata = {"rehearsal": table(rehearsal_table(rehearsal))} if rehearsal.results else {}
    return {**rows, "rehearsal_seconds": rehearsal.seconds, "rehearsal_note": rehearsal.note or "none"}


def findings_metadata(preflight: Preflight) -> Metadata:
    """How many findings there are of each severity, and which."""
    counts = {severity: sum(f.severity == severity for f in preflight.findings) for severity in get_args(Severity)}
    return {**counts, "findings": table(findings_table(preflight.findings))}


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
    load: Metadata = {"load": table(load_summary(report))} if report.kind == "performance" else {}
    return {
        **numbers,
        **load,
        "n_samples": report.n_samples,
        "n_unscored": report.n_unscored,
        "inference_seconds": round(report.inference_seconds, 2),
        "metrics": table(report_table(report)),
        "endpoint": dg.MetadataValue.url(report.endpoint.url),
        **({"grading": dg.MetadataValue.md("\n".join(f"- {note}" for note in report.notes))} if report.notes else {}),
        "failing": dg.MetadataValue.md("\n".join(f"- {line}" for line in report.failing) or "none"),
        "instrument": report.instrument,
        "suite_digest": report.suite_digest,
        "samples": dg.MetadataValue.path(report.samples_file),
    }


def promotion_metadata(verdict: Verdict) -> Metadata:
    """How many criteria held, what follows, and every criterion with its interval."""
    rows = verdict_table(verdict)
    required = [c for c in verdict.criteria if c.tier == "required"]
    return {
        "required": len(required),
        "required_held": sum(c.outcome == "pass" for c in required),
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "criteria": table([{k: v for k, v in row.items() if k != "note"} for row in rows]),
    }


def verdict_metadata(verdict: Verdict, endpoint: Endpoint, report: Path) -> Metadata:
    """The promotion; what a criterion has to add stands below, where there is room for it.

    Args:
        report: the model's page, which is written a moment later.
    """
    return {
        **promotion_metadata(verdict),
        **({"labels": labels} if (labels := waiting_for_labels(verdict)) else {}),
        "endpoint": dg.MetadataValue.url(endpoint.url),
        "report": dg.MetadataValue.path(str(report)),
        "notes": dg.MetadataValue.md("\n".join(f"- {line}" for line in criterion_notes(verdict)) or "none"),
        "policy": f"{verdict.policy} ({verdict.policy_digest[:19]})",
        "verdict_id": verdict.verdict_id,
        "commit_hash": verdict.commit_hash,
    }


def plan_metadata(plan: ReleasePlan, release: Release) -> Metadata:
    """How many lanes, then every lane with its reason."""
    return {
        "lanes_taken": sum(p.selected for p in plan.lanes),
        "lanes": table(plan_table(plan)),
        "hub": hub_link(release),
        "commit_hash": plan.revision.commit_hash,
    }


def derivation_metadata(made: Checkpoint, source: Checkpoint) -> Metadata:
    """What it took as plots; then what it was made from and by."""
    derivation = made.derivation
    spent = derivation.model_dump(include={"wall_s", "cpu_s", "peak_rss_bytes"}) if derivation is not None else {}
    metadata: Metadata = {
        "size_bytes": made.size_bytes,
        "size_ratio": round(made.size_bytes / source.size_bytes, 4) if source.size_bytes else 0.0,
        **spent,
        "sizes": table(
            [
                {"checkpoint": c.scheme, "MB": f"{c.size_bytes / 1e6:,.1f}", "digest": c.digest[:19]}
                for c in (source, made)
            ]
        ),
        "scheme": made.scheme,
        "digest": made.digest,
        "directory": dg.MetadataValue.path(made.directory),
        "commit_hash": made.revision.commit_hash,
    }
    if derivation is None:
        return metadata
    return metadata | {
        "recipe": f"{derivation.recipe} ({derivation.recipe_digest[:19]})",
        "calibration": f"{counted(derivation.calibration_samples, 'text')}, {derivation.calibration_tokens:,} tokens "
        f"({derivation.calibration_digest[:19]})"
        if derivation.calibration_digest
        else "none",
        "made_by": f"{derivation.made_by}, {derivation.path}",
        "group_size": derivation.group_size or 0,
        "notes": dg.MetadataValue.md("\n".join(f"- {note}" for note in derivation.notes) or "none"),
        "source_digest": derivation.source_digest,
        "taken_away": derivation.taken_away,
        "lost_gpu_hours": round(derivation.lost_gpu_hours, 4),
    }


def recovery_metadata(recovery: Recovery) -> Metadata:
    """The four figures as plots, then the bars they are held against, with the noise floor."""
    measured = recovery.findings.measured
    numbers: Metadata = measured.model_dump() if measured is not None else {}
    return {
        **numbers,
        "n_tokens": recovery.findings.n_tokens,
        "size_ratio": recovery.findings.size_ratio,
        "seconds": recovery.seconds,
        "outcome": recovery.outcome,
        "reason": recovery.reason,
        "criteria": table(recovery_table(recovery)),
        "policy": f"{recovery.policy} ({recovery.policy_digest[:19]})",
        "texts_digest": recovery.texts_digest,
    }


def registration_metadata(done: Registration, gateway_url: str) -> Metadata:
    """What the gateway was told, with the diff of each route that was looked at."""
    swap = done.swap
    versions: Metadata = {"route_version": done.route_version or 0, "endpoints_retired": len(done.retired)}
    if swap is not None:
        versions["swap_route_version"] = swap.route_version or 0
    metadata: Metadata = {
        **versions,
        "route": table(
            [
                {
                    "alias": done.alias,
                    "verdict": done.outcome,
                    "who may call": ", ".join(done.tags) or "nobody",
                    "endpoint": done.endpoint,
                    "commit": done.commit_hash[:12],
                }
            ]
        ),
        "gateway": dg.MetadataValue.url(gateway_url),
        "outcome": done.outcome,
        "alias": done.alias,
        "tags": ", ".join(done.tags) or "none",
        "diff": diff_metadata(done.diff),
    }
    if swap is None:
        return metadata
    return metadata | {
        "swap": f"{swap.how}: {swap.reason}",
        "swap_alias": swap.alias,
        "swap_diff": diff_metadata(swap.diff or ("unchanged",)),
    }


def diff_metadata(lines: Sequence[str]) -> dg.MetadataValue[Any]:
    """What changed, line by line, in colours."""
    return dg.MetadataValue.md("```diff\n" + "\n".join(lines) + "\n```")
