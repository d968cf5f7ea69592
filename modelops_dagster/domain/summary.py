"""Values as small tables of text, for the Dagster UI, the terminal and Markdown. What is missing is None."""

from collections.abc import Mapping, Sequence

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.plan import ReleasePlan
from modelops_dagster.domain.policies import shown
from modelops_dagster.domain.preflight import Finding, Preflight
from modelops_dagster.domain.recovery import Recovery
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.domain.verdicts import Verdict

TableRow = dict[str, str | None]


def number(value: float | None, unit: str = "") -> str | None:
    """A number with its unit, as short as its size allows; a share has no unit."""
    if value is None:
        return None
    return shown(value) if unit in ("", "share") else f"{shown(value)} {unit}"


def interval(low: float | None, high: float | None) -> str | None:
    """`0.22-0.42`; an end that the sample is too small for is a question mark, both missing is None."""
    if low is None and high is None:
        return None
    return "-".join("?" if end is None else shown(end) for end in (low, high))


def verdict_table(verdict: Verdict) -> list[TableRow]:
    """One row per criterion, required ones first and among them those that decided."""
    order = {"fail": 0, "hold": 1, "pass": 2}
    units = {(e.suite, m.name): m.unit for e in verdict.evidence for m in e.metrics}
    ranked = sorted(verdict.criteria, key=lambda c: (c.tier != "required", order[c.outcome]))
    return [
        {
            "outcome": c.outcome,
            "criterion": f"{c.suite}.{c.metric}",
            "value": number(c.value, units.get((c.suite, c.metric), "")),
            "95 % interval": interval(c.ci_low, c.ci_high),
            "n": str(c.n),
            "rule": c.rule,
            "tier": c.tier,
            "note": c.note or None,
        }
        for c in ranked
    ]


def criterion_notes(verdict: Verdict) -> list[str]:
    """What criteria have to add to their numbers, a line for each note with all the criteria that it is of."""
    noted: dict[str, list[str]] = {}
    for row in verdict_table(verdict):
        if row["note"]:
            noted.setdefault(str(row["note"]), []).append(str(row["criterion"]))
    return [f"{', '.join(criteria)}: {note}" for note, criteria in noted.items()]


def report_table(report: SuiteReport) -> list[TableRow]:
    """One row per metric."""
    return [metric_row(m) for m in report.metrics]


LOAD_COLUMNS = (
    "requests_per_s", "output_tokens_per_s", "client_queue_p95_ms", "ttft_p50_ms", "ttft_p95_ms", "tpot_p50_ms",
    "itl_p95_ms", "e2el_p50_ms", "e2el_p95_ms", "goodput",
)  # fmt: skip


def load_summary(report: SuiteReport) -> list[TableRow]:
    """Throughput and latency, one row per level of load in the order they were sent."""
    levels: dict[str, dict[str, Metric]] = {}
    for metric in report.metrics:
        name, _, level = metric.name.partition("@")
        is_open = name.startswith("open_")
        if level:
            label = f"{level} requests/s" if is_open else f"{level} at a time"
            levels.setdefault(label, {})[name.removeprefix("open_")] = metric
    rows: list[TableRow] = []
    for label, own in levels.items():
        cells = {c: number(own[c].value, own[c].unit) if c in own else None for c in LOAD_COLUMNS}
        rows.append({"load": label, **cells})
    return rows


def metric_row(metric: Metric) -> TableRow:
    """A metric with its interval."""
    return {
        "metric": metric.name,
        "value": number(metric.value, metric.unit),
        "95 % interval": interval(metric.ci_low, metric.ci_high),
        "n": str(metric.n),
    }


FILES_SHOWN = 10


def files_table(release: Release) -> list[TableRow]:
    """The largest files of a release; the rest as one row."""
    ranked = sorted(release.files, key=lambda f: (-f.size_bytes, f.path))
    rows: list[TableRow] = [
        {"file": f.path, "MB": f"{f.size_bytes / 1e6:,.3f}", "sha256": f.sha256[:12] if f.sha256 else None}
        for f in ranked[:FILES_SHOWN]
    ]
    if rest := ranked[FILES_SHOWN:]:
        size = sum(f.size_bytes for f in rest)
        rows.append({"file": f"{len(rest)} more", "MB": f"{size / 1e6:,.3f}", "sha256": None})
    return rows


def rehearsal_table(rehearsal: Rehearsal) -> list[TableRow]:
    """One row per rung that was tried with made-up weights."""
    return [
        {"rung": r.rung, "result": r.reason or "loads", "detail": r.detail, "seconds": f"{r.seconds:.1f}"}
        for r in rehearsal.results
    ]


def ladder_table(endpoint: Endpoint | Parked) -> list[TableRow]:
    """One row per rung that was tried, in order; the last is the one the model stands on, if any."""
    return [
        {
            "rung": r.rung,
            "result": "serves the model" if r.reason is None else r.reason,
            "detail": "; ".join((r.detail, *r.notes) if r.detail else r.notes) or None,
            "seconds": f"{r.seconds:.1f}",
        }
        for r in endpoint.ladder
    ]


def findings_table(findings: Sequence[Finding]) -> list[TableRow]:
    """One row per finding, those that block first."""
    return [{"severity": f.severity, "code": f.code, "finding": f.sentence} for f in findings]


def support_table(preflight: Preflight) -> list[TableRow]:
    """What each rung of the ladder would do with the architecture, highest first."""
    return [{"rung": s.rung, "support": s.kind.replace("_", " "), "detail": s.sentence} for s in preflight.supports]


def checkpoint_line(checkpoint: Checkpoint) -> str:
    """What a checkpoint is and, when it was made here, how."""
    size = f"{checkpoint.scheme}, {checkpoint.size_bytes / 1e6:,.1f} MB"
    made = checkpoint.derivation
    if made is None:
        return size
    notes = "".join(f"; {note}" for note in made.notes)
    spent = f"{made.wall_s:.0f} s, at most {made.peak_rss_bytes / 1e9:.1f} GB of memory"
    return f"{size}, by {made.recipe} with {made.made_by} in {spent}{notes}"


def plan_table(plan: ReleasePlan) -> list[TableRow]:
    """One row per lane."""
    return [{"lane": p.lane, "taken": "yes" if p.selected else "no", "why": p.reason} for p in plan.lanes]


def recovery_table(recovery: Recovery) -> list[TableRow]:
    """One row per figure, with its bars; where no bar holds, every figure with none."""
    if recovery.criteria:
        return [
            {
                "outcome": c.outcome,
                "figure": c.figure,
                "value": f"{c.value:.4f}",
                "noise floor": f"{c.noise:.4f}",
                "warn": f"{c.warn:g}",
                "block": f"{c.block:g}",
            }
            for c in recovery.criteria
        ]
    measured, noise = recovery.findings.measured, recovery.findings.noise
    if measured is None or noise is None:
        return [{"outcome": recovery.outcome, "figure": "not measured", "value": None, "noise floor": None}]
    return [
        {"outcome": None, "figure": name, "value": f"{value:.4f}", "noise floor": f"{getattr(noise, name):.4f}"}
        for name, value in measured.model_dump().items()
    ]


def markdown(rows: Sequence[Mapping[str, str | None]]) -> str:
    """Rows as a Markdown table; a missing cell is a dash."""
    if not rows:
        return ""
    columns = list(rows[0])

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    body = [line([row.get(column) or "-" for column in columns]) for row in rows]
    return "\n".join([line(columns), line(["---"] * len(columns)), *body])
