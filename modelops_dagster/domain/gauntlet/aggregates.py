"""From rows to a report's metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelops_dagster.domain.gauntlet.contract import ADVISORY
from modelops_dagster.domain.gauntlet.metrics import (
    Scoring,
    event_metric,
    mean_metric,
    percentile,
    percentile_metric,
    share_metric,
)
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.suite import Goodput, Load, MetricSpec


def dataset_metrics(specs: Sequence[MetricSpec], rows: Sequence[Row]) -> tuple[Metric, ...]:
    """The metrics of a dataset suite, from its rows alone, so that stored rows give the same numbers again.

    Rows without a score are missing everywhere but in `scored_share`.
    """
    scored = [row for row in rows if row["score"] is not None]
    groups = sorted({_group(row) for row in rows})
    out = [mean_metric("accuracy", [_scoring(r) for r in scored]), share_metric("scored_share", len(scored), len(rows))]
    out += [_specified(m, scored) for m in specs]
    if len(groups) > 1:
        out += [mean_metric(f"accuracy/{g}", [_scoring(r) for r in scored if _group(r) == g]) for g in groups]
    for outcome in ("empty", "truncated"):
        out.append(share_metric(f"{outcome}_rate", sum(r["outcome_class"] == outcome for r in rows), len(rows)))
    return tuple(out)


def _group(row: Row) -> str:
    return str(row["category"]).split("/")[0]


def _scoring(row: Row) -> Scoring:
    # epochs of one sample are one cluster: asking again does not add a sample
    return Scoring(float(row["score"]), float(row["weight"]), row["cluster"])


def _specified(metric: MetricSpec, scored: Sequence[Row]) -> Metric:
    covered = [
        r for r in scored if metric.covers(expected=r["expected"], severity=r["severity"], category=r["category"])
    ]
    if metric.kind == "mean":
        return mean_metric(metric.name, [_scoring(row) for row in covered])
    if metric.kind == "refused":
        return share_metric(metric.name, sum(row["outcome_class"] == "refused" for row in covered), len(covered))
    return event_metric(metric.name, sum(row["score"] < 1 for row in covered), len(covered))


def is_good(request: Mapping[str, Any], limits: Goodput) -> bool:
    """Whether a request met every limit that is set. A time that is missing is not met, as in AIPerf."""
    if request["error"]:
        return False
    wanted = limits.model_dump(exclude_none=True)
    return all(request[name] is not None and request[name] <= limit for name, limit in wanted.items())


def lag_fault(load: Load, result: Mapping[str, Any]) -> str | None:
    """Why the client's own event loop makes the times unusable, or None."""
    first = [r["ttft_ms"] for level in result["levels"] for r in level["requests"] if r["ttft_ms"] is not None]
    allowed = max(load.max_lag_ms, load.max_lag_share * percentile(first, 0.5)) if first else load.max_lag_ms
    lag = float(result["lag_p99_ms"])
    if lag <= allowed:
        return None
    return (
        f"The load run is void: the client's event loop lagged {lag:.1f} ms (p99; allowed {allowed:.1f} ms); "
        "run it where the client has a core to itself."
    )


def load_metrics(load: Load, result: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Percentiles and rates at each concurrency. A void run keeps its rows and gives no values."""
    void = lag_fault(load, result) is not None
    out: list[Metric] = []
    sent = ok_total = 0
    for level in result["levels"]:
        good = [r for r in level["requests"] if not r["error"]]
        sent, ok_total = sent + len(level["requests"]), ok_total + len(good)
        out += _level_metrics(load, level, [] if void else good)
    share = share_metric("scored_share", 0 if void else ok_total, sent)
    return (*out, share, Metric(name="client_lag_p99_ms", value=float(result["lag_p99_ms"]), n=sent, unit="ms"))


def _level_metrics(load: Load, level: Mapping[str, Any], good: Sequence[Mapping[str, Any]]) -> list[Metric]:
    at = level["concurrency"]

    def values(name: str) -> list[float]:
        return [r[name] for r in good if r[name] is not None]

    out = [
        percentile_metric(f"{name}_p{q}_ms@{at}", values(f"{name}_ms"), q / 100)
        for name in ("ttft", "tpot", "e2el")
        for q in (50, 95)
    ]
    gaps = [gap for r in good for gap in r["itl_ms"]]
    # gaps of one request are not independent: the percentile is reported without an interval
    out.append(Metric(name=f"itl_p95_ms@{at}", value=percentile(gaps, 0.95) if gaps else None, n=len(gaps), unit="ms"))
    tokens, seconds = sum(r["tokens_out"] or 0 for r in good), level["duration_s"]
    for name, amount, unit in (
        ("output_tokens_per_s", tokens, "tokens/s"),
        ("requests_per_s", len(good), "requests/s"),
    ):
        value = amount / seconds if good and seconds > 0 else None
        out.append(Metric(name=f"{name}@{at}", value=value, n=len(good), unit=unit))
    n = len(level["requests"]) if good else 0
    out.append(share_metric(f"goodput@{at}", sum(is_good(r, load.goodput) for r in good), n))
    return out


def contract_metrics(rows: Sequence[Row]) -> tuple[Metric, ...]:
    """One metric per check, and the share that passed. Checks are not a sample of anything: there is no interval."""
    offered = [row for row in rows if row["outcome_class"] != "not_offered"]
    ruled = [row for row in offered if row["score"] is not None]
    required = [row for row in ruled if row["category"] != ADVISORY]
    passed = sum(row["score"] for row in required)
    n = len(required)
    return (
        Metric(name="pass_rate", value=passed / n if n else None, n=n, unit="share"),
        Metric(name="failed_checks", value=n - passed if n else None, n=n, unit="count"),
        share_metric("scored_share", len(ruled), len(offered)),
        Metric(name="not_offered", value=len(rows) - len(offered), n=len(rows), unit="count"),
        *(Metric(name=f"check/{row['sample_id']}", value=row["score"], n=1, unit="share") for row in ruled),
    )
