"""Answers to a suite as they were stored: what a comparison and a replay are computed from."""

from datetime import datetime
from typing import Literal

from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import Incumbent, Metric
from modelops_dagster.domain.gauntlet.rows import Row

Table = Literal["samples", "perf_requests"]
# load requests of older layouts do not say of which suite they are
_SUITE: dict[Table, str] = {
    "samples": "and suite = $suite",
    "perf_requests": "and coalesce(suite, $suite) = $suite",
}
_ORDER: dict[Table, str] = {"samples": "epoch, sample_id", "perf_requests": "concurrency, rate, request"}


def answers(store: ScoreStore, run_id: str, suite: str, endpoint: str, table: Table = "samples") -> list[Row]:
    """The rows that one endpoint's answers to a suite left in one run, in a fixed order; empty when there are none."""
    sql = (
        f"select * from {table} where run_id = $run_id and endpoint = $endpoint {_SUITE[table]} "  # noqa: S608
        f"order by {_ORDER[table]}"
    )
    given = {"run_id": run_id, "endpoint": endpoint, "suite": suite}
    columns, rows = store.query(sql, given)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def stored_metrics(store: ScoreStore, run_id: str, suite: str, endpoint: str) -> tuple[Metric, ...]:
    """The metrics that landed with a suite run."""
    sql = """
        select metric, value, ci_low, ci_high, n, coalesce(unit, '') from scores
        where run_id = $run_id and suite = $suite and endpoint = $endpoint order by metric
    """
    _, rows = store.query(sql, {"run_id": run_id, "suite": suite, "endpoint": endpoint})
    return tuple(
        Metric(name=name, value=value, ci_low=low, ci_high=high, n=n, unit=unit)
        for name, value, low, high, n, unit in rows
    )


def latest_answers(
    store: ScoreStore, *, endpoint: str, commit_hash: str, suite: str, instrument: str, since: datetime
) -> Incumbent | None:
    """The newest run in which an endpoint answered a suite on this instrument, if it was not before `since`."""
    sql = """
        select run_id, max(started_at) as asked_at, any_value(engine), any_value(engine_version) from samples
        where endpoint = $endpoint and commit_hash = $commit_hash and suite = $suite and instrument = $instrument
        group by run_id having max(started_at) >= $since order by asked_at desc limit 1
    """
    given = {"endpoint": endpoint, "commit_hash": commit_hash, "suite": suite, "instrument": instrument, "since": since}
    for run_id, asked_at, engine, version in store.query(sql, given)[1]:
        return Incumbent(
            endpoint=endpoint,
            commit_hash=commit_hash,
            engine=engine,
            engine_version=version or "unknown",
            run_id=run_id,
            interleaved=False,
            asked_at=asked_at,
        )
    return None


def load_requests(
    store: ScoreStore, run_id: str | None = None, endpoint: str | None = None
) -> list[tuple[dict[str, str], list[Row]]]:
    """The load requests of a run, or of the newest that sent any, one entry per endpoint and suite.

    Returns:
        (who: `run_id`, `repo_id`, `endpoint`, `suite`; rows in a fixed order).

    Raises:
        InvalidSpec: there are none.
    """
    sql = """
        select * replace (coalesce(suite, 'performance') as suite) from perf_requests
        where run_id = coalesce($run_id, (select arg_max(run_id, started_at) from perf_requests))
          and coalesce(endpoint = $endpoint, true)
        order by endpoint, suite, rate nulls first, concurrency, request
    """
    columns, found = store.query(sql, {"run_id": run_id, "endpoint": endpoint})
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    if not rows:
        of = f" of run {run_id!r}" if run_id else ""
        on = f" on {endpoint!r}" if endpoint else ""
        raise InvalidSpec(
            f"there are no load requests{of}{on}; `modelops scores --sql` shows what the table perf_requests holds.",
            field="run_id",
        )
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["endpoint"], row["suite"]), []).append(row)
    named = ("run_id", "repo_id", "endpoint", "suite")
    return [({name: own[0][name] for name in named}, own) for own in groups.values()]
