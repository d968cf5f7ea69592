"""From rows to a report's metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.contract import ADVISORY
from modelops_dagster.domain.gauntlet.load import Goodput, Load
from modelops_dagster.domain.gauntlet.load_times import level_of
from modelops_dagster.domain.gauntlet.metrics import (
    Scoring,
    event_metric,
    mean_metric,
    percentile,
    percentile_metric,
    share_metric,
    weighted_mean,
)
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.gauntlet.suite import MetricSpec

GRADED = "graded/"


def counted(rows: Sequence[Row]) -> list[Row]:
    """The rows that anything is computed from: what nobody was admitted to judge is as if it had not been asked."""
    return [row for row in rows if row["outcome_class"] != "ungraded"]


def dataset_metrics(
    specs: Sequence[MetricSpec], rows: Sequence[Row], calibrations: Sequence[Calibration] = ()
) -> tuple[Metric, ...]:
    """The metrics of a dataset suite, from its rows alone, so that stored rows give the same numbers again.

    Rows without a score are missing everywhere but in `scored_share`; ungraded ones are missing there too. For each of
    the `calibrations`, those of the graders that scored, `corrected/GROUP` is the share of good answers behind the
    grader's, and `graded/GROUP` the share of the answers that it gave a verdict on.
    """
    every, rows = rows, counted(rows)
    scored = [row for row in rows if row["score"] is not None]
    groups = sorted({_group(row) for row in rows})
    out = [mean_metric("accuracy", [_scoring(r) for r in scored]), share_metric("scored_share", len(scored), len(rows))]
    out += [_specified(m, scored) for m in specs]
    if len(groups) > 1:
        out += [mean_metric(f"accuracy/{g}", [_scoring(r) for r in scored if _group(r) == g]) for g in groups]
    for outcome in ("empty", "truncated"):
        out.append(share_metric(f"{outcome}_rate", sum(r["outcome_class"] == outcome for r in rows), len(rows)))
    for calibration in calibrations:
        mine = [row for row in every if _group(row) == calibration.category]
        known = [row for row in mine if row["score"] is not None]
        waiting = len(mine) - len(counted(mine))
        out.append(_corrected(calibration, known))
        out.append(share_metric(f"{GRADED}{calibration.category}", len(known), len(known) + waiting))
    return tuple(out)


def _corrected(calibration: Calibration, scored: Sequence[Row]) -> Metric:
    """The share corrected for the grader's errors; answers that no grader was shown are wrong beyond doubt."""
    name = f"corrected/{calibration.category}"
    judged = [_scoring(row) for row in scored if row["outcome_class"] in ("correct", "wrong")]
    if not judged:
        return Metric(name=name, value=None, n=0, unit="share")
    samples = len({s.cluster for s in judged})
    found = calibration.correct(weighted_mean(judged), samples)
    shown = math.fsum(s.weight for s in judged) / math.fsum(float(row["weight"]) for row in scored)
    low, value, high = (shown * end for end in (found.low, found.value, found.high))
    return Metric(name=name, value=value, ci_low=low, ci_high=high, n=len(judged), unit="share")


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
    """Percentiles and rates at each level of load. A void run keeps its rows and gives no values.

    Names end in `@C`, the concurrency of a closed loop; those of an open loop begin with `open_` and end in `@R`, the
    rate in requests/s. A request of an open loop is late from the moment it was due: `client_queue_ms`, what it waited
    in the client for a slot or for the event loop, is part of its times. Leaving that out is the coordinated omission
    that makes an overloaded server look fast.
    """
    void = lag_fault(load, result) is not None
    out: list[Metric] = []
    sent = ok_total = 0
    for level in result["levels"]:
        is_open = level["rate"] is not None
        requests = [_from_due(r) if is_open else r for r in level["requests"]]
        good = [r for r in requests if not r["error"]]
        sent, ok_total = sent + len(requests), ok_total + len(good)
        metrics = _level_metrics(load, level, requests, [] if void else good)
        out += [m.model_copy(update={"name": f"open_{m.name}"}) for m in metrics] if is_open else metrics
    share = share_metric("scored_share", 0 if void else ok_total, sent)
    return (*out, share, Metric(name="client_lag_p99_ms", value=float(result["lag_p99_ms"]), n=sent, unit="ms"))


def _from_due(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with its times counted from when it was due, not from when it was sent."""
    late = request["client_queue_ms"]
    names = ("first_chunk_ms", "ttft_ms", "ttfot_ms", "e2el_ms")
    return {**request, **{name: request[name] + late for name in names if request[name] is not None}}


def _level_metrics(
    load: Load, level: Mapping[str, Any], requests: Sequence[Mapping[str, Any]], good: Sequence[Mapping[str, Any]]
) -> list[Metric]:
    at = level_of(level)

    def values(name: str) -> list[float]:
        return [r[name] for r in good if r[name] is not None]

    out = [
        percentile_metric(f"{name}_p{q}_ms@{at}", values(f"{name}_ms"), q / 100)
        for name in ("ttft", "tpot", "e2el")
        for q in (50, 95)
    ]
    out += [percentile_metric(f"{name}_p50_ms@{at}", values(f"{name}_ms"), 0.5) for name in ("first_chunk", "ttfot")]
    out.append(percentile_metric(f"client_queue_p95_ms@{at}", values("client_queue_ms"), 0.95))
    gaps = [gap for r in good for gap in r["itl_ms"]]
    # gaps of one request are not independent: the percentile is reported without an interval
    out.append(Metric(name=f"itl_p95_ms@{at}", value=percentile(gaps, 0.95) if gaps else None, n=len(gaps), unit="ms"))
    per_chunk = values("tokens_per_chunk")
    mean = sum(per_chunk) / len(per_chunk) if per_chunk else None
    out.append(Metric(name=f"tokens_per_chunk@{at}", value=mean, n=len(per_chunk), unit="tokens"))
    tokens, seconds = sum(r["tokens_out"] or 0 for r in good), level["duration_s"]
    met = sum(is_good(r, load.goodput) for r in good)
    for name, amount, unit in (
        ("output_tokens_per_s", tokens, "tokens/s"),
        ("requests_per_s", len(good), "requests/s"),
        ("good_requests_per_s", met, "requests/s"),
    ):
        value = amount / seconds if good and seconds > 0 else None
        out.append(Metric(name=f"{name}@{at}", value=value, n=len(good), unit=unit))
    out.append(share_metric(f"goodput@{at}", met, len(requests) if good else 0))
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
