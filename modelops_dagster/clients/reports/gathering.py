"""What a report says, read from the score history: facts in tables, no markup."""

from datetime import datetime
from typing import Any

from pydantic import Field

from modelops_dagster.clients.reports.occupancy import Occupancy, occupancy
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.attention import look_first
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.load_times import load_table
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.monitoring import Span
from modelops_dagster.domain.statistics.proportions import wilson
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Verdict

MAX_FLIPS = 40

SAMPLES = """
    select suite, sample_id, category, cluster, severity, expected, outcome_class, score, weight, explanation,
           started_at
    from samples where run_id in (select unnest($runs)) and endpoint = $endpoint order by suite, sample_id, epoch
"""
HISTORY = """
    select suite, metric, commit_hash, value, ci_low, ci_high, unit, evaluated_at, instrument from score_history
    where repo_id = $repo_id and lane = $lane and value is not null and metric not like '%@%'
    order by suite, metric, evaluated_at
"""
RUNGS = """
    select position, rung, engine_version, reason, detail, seconds, start_seconds, tokens_per_second, checkpoint_digest
    from rungs
    where repo_id = $repo_id and lane = $lane qualify rank() over (order by tried_at desc, run_id desc) = 1
    order by position
"""
CALLS = """
    select count(*) as calls, count(*) filter (status <> 200 or error is not null) as failed,
           sum(tokens_in) as tokens_in, sum(tokens_out) as tokens_out, sum(cost_usd) as usd,
           quantile_cont(latency_ms, 0.95) as latency_p95_ms, min(time) as since
    from gateway_requests where endpoint = $endpoint and is_shadow = 0
"""


class LaneReport(Value):
    """One lane of a model."""

    verdict: Verdict
    look_first: tuple[str, ...] = Field(description="sentences, the most pressing first")
    categories: tuple[Row, ...] = Field(description="suite, category, n, mean, low, high, unscored; worst first")
    clusters: tuple[Row, ...]
    flips: tuple[Row, ...] = Field(description="samples that candidate and incumbent did not answer alike")
    n_flips: int
    load: tuple[Row, ...] = Field(description="one row per level of load")
    history: tuple[Row, ...]
    ladder: tuple[Row, ...]
    calls: Row
    occupancy: Occupancy | None = Field(description="None: its endpoint is deleted, or not the controller's")
    lineage: tuple[tuple[str, str], ...] = Field(description="what this rests on, from the commit to the instrument")


class ModelReport(Value):
    """Everything a person needs to know of one model, as of one moment."""

    repo_id: str
    lanes: tuple[LaneReport, ...]
    made_at: datetime


def gather_model(store: ScoreStore, repo_id: str, now: datetime) -> ModelReport:
    """The report of one model.

    Raises:
        InvalidSpec: nothing was ever decided about it.
    """
    verdicts = store.latest_verdicts(repo_id)
    if not verdicts:
        raise InvalidSpec(
            f"there is no verdict on {repo_id!r}; `modelops onboard {repo_id}` ends in one.", field="repo_id"
        )
    lanes = sorted(verdicts, key=lambda v: (v.lane != "raw", v.lane))
    return ModelReport(repo_id=repo_id, lanes=tuple(_lane(store, verdict, now) for verdict in lanes), made_at=now)


def gather_leaderboard(store: ScoreStore) -> list[Row]:
    """Every model and lane in the leaderboard's order, with the reason of its verdict."""
    return _rows(
        store,
        "select l.*, v.reason from leaderboard l left join latest_verdicts v using (repo_id, lane, commit_hash) "
        "order by l.quality_digest, l.rank, l.repo_id, l.lane",
        {},
    )


def _lane(store: ScoreStore, verdict: Verdict, now: datetime) -> LaneReport:
    runs = sorted({e.run_id for e in verdict.evidence})
    where: dict[str, object] = {"repo_id": verdict.repo_id, "lane": verdict.lane}
    samples = _rows(store, SAMPLES, {"runs": runs, "endpoint": verdict.endpoint})
    flips = _rows(
        store,
        "select * from flips where verdict_id = $id order by change desc, suite, sample_id, epoch",
        {"id": verdict.verdict_id},
    )
    ladder = _rows(store, RUNGS, where)
    requests = _rows(
        store,
        "select * from perf_requests where run_id in (select unnest($runs)) and endpoint = $endpoint "
        "order by rate nulls first, concurrency, request",
        {"runs": runs, "endpoint": verdict.endpoint},
    )
    left = [r for r in ladder if r["reason"]]
    begun = min((r["started_at"] for r in (*samples, *requests) if r["started_at"] is not None), default=None)
    asked = Span(begun, verdict.decided_at) if begun is not None and begun < verdict.decided_at else None
    return LaneReport(
        verdict=verdict,
        look_first=tuple(look_first(verdict, samples, flips, left)),
        categories=tuple(_groups(samples, "category")),
        clusters=tuple(_groups(samples, "cluster")),
        flips=tuple(flips[:MAX_FLIPS]),
        n_flips=len(flips),
        load=tuple(load_table(requests, "modelops")) if requests else (),
        history=tuple(_rows(store, HISTORY, where)),
        ladder=tuple(ladder),
        calls=_rows(store, CALLS, {"endpoint": verdict.endpoint})[0],
        occupancy=occupancy(store.root.parent / "controller", verdict.endpoint, asked, now),
        lineage=_lineage(store, verdict, runs, ladder),
    )


def _groups(samples: list[Row], column: str) -> list[Row]:
    """Means with Wilson intervals over samples of one group; groups of one sample say nothing and are left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for sample in samples:
        if sample[column] is not None:
            groups.setdefault((sample["suite"], sample[column]), []).append(sample)
    found: list[Row] = []
    for (suite, name), own in groups.items():
        scores = [s["score"] for s in own if s["score"] is not None]
        if len(own) < 2 or not scores:
            continue
        total = min(float(len(scores)), max(0.0, sum(scores)))
        low, high = wilson(total, len(scores))
        row = {"suite": suite, "name": name, "n": len(scores), "mean": total / len(scores), "low": low, "high": high}
        found.append(row | {"unscored": len(own) - len(scores)})
    return sorted(found, key=lambda row: (row["suite"], row["mean"], row["name"]))


def _lineage(store: ScoreStore, verdict: Verdict, runs: list[str], ladder: list[Row]) -> tuple[tuple[str, str], ...]:
    served = _rows(
        store,
        "select any_value(engine) as engine, any_value(engine_version) as version, "
        "any_value(engine_variant) as variant, any_value(scheme) as scheme "
        "from scores where run_id in (select unnest($runs)) and endpoint = $endpoint",
        {"runs": runs, "endpoint": verdict.endpoint},
    )[0]
    build = next((r["engine_version"] for r in ladder if r["reason"] is None and r["engine_version"]), None)
    engine = " ".join(filter(None, [served["engine"], build or served["version"], served["variant"]]))
    steps = [
        ("commit", f"{verdict.repo_id}@{verdict.commit_hash}"),
        ("weights", next((r["checkpoint_digest"] for r in ladder if r["checkpoint_digest"]), None) or "not recorded"),
        ("scheme", served["scheme"] or "not recorded"),
        ("endpoint", verdict.endpoint),
        ("engine", engine or "not recorded"),
        *((f"{e.suite}: samples", e.suite_digest) for e in verdict.evidence),
        *((f"{e.suite}: instrument", e.instrument) for e in verdict.evidence),
        ("policy", f"{verdict.policy} {verdict.policy_digest}"),
        ("verdict", verdict.verdict_id),
    ]
    return tuple(steps)


def _rows(store: ScoreStore, sql: str, given: dict[str, Any]) -> list[Row]:
    columns, rows = store.query(sql, given)
    return [dict(zip(columns, row, strict=True)) for row in rows]
