"""Computing a decision again from stored rows, and finding every number that comes out differently."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modelops_dagster.domain.gauntlet.aggregates import contract_metrics, counted, dataset_metrics
from modelops_dagster.domain.gauntlet.metrics import percentile_metric
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.verdicts.decision import SuiteEvidence, Verdict

TOLERANCE = 1e-9
PERCENTILES = [(f"{name}_p{q}_ms", f"{name}_ms", q / 100) for name in ("ttft", "tpot", "e2el") for q in (50, 95)]


class Mismatch(NamedTuple):
    """A number of a decision that its stored rows do not give."""

    what: str
    stored: object
    again: object


def recomputed(piece: SuiteEvidence, rows: Sequence[Row], landed: Sequence[Metric]) -> SuiteEvidence:
    """The evidence with its numbers computed from rows again.

    Args:
        rows: samples, or the requests of a performance suite.
        landed: the metrics as they landed beside the rows; throughput, goodput and gaps between tokens need more than
            the rows of a load hold (the wall time of a level, every gap), so these are taken from there.
    """
    if piece.kind == "performance":
        return piece.model_copy(update={"metrics": _load_metrics(rows, landed)})
    if piece.kind == "contract":
        offered = [row for row in rows if row["outcome_class"] != "not_offered"]
        return _counted(piece, contract_metrics(rows), offered)
    return _counted(piece, dataset_metrics(piece.specs, rows, piece.calibrations), counted(rows))


def mismatches(stored: Verdict, again: Verdict) -> list[Mismatch]:
    """Every number, outcome and digest in which two decisions differ; floats to a relative 1e-9."""
    found = []
    pairs = zip(_numbers(stored), _numbers(again), strict=False)
    for (what, left), (also, right) in pairs:
        if what != also or not _same(left, right):
            found.append(Mismatch(what if what == also else f"{what} / {also}", left, right))
    left_count, right_count = (sum(1 for _ in _numbers(v)) for v in (stored, again))
    if left_count != right_count:
        found.append(Mismatch("numbers behind the decision", left_count, right_count))
    return found


def _counted(piece: SuiteEvidence, metrics: tuple[Metric, ...], rows: Sequence[Row]) -> SuiteEvidence:
    unscored = sum(row["score"] is None for row in rows)
    return piece.model_copy(update={"metrics": metrics, "n_samples": len(rows), "n_unscored": unscored})


def _load_metrics(rows: Sequence[Row], landed: Sequence[Metric]) -> tuple[Metric, ...]:
    """Percentiles from the requests where the run was not void; everything else as it landed."""
    out = []
    for metric in landed:
        name, _, level = metric.name.partition("@")
        known = next((p for p in PERCENTILES if p[0] == name), None)
        if known is None or metric.value is None:
            out.append(metric)
            continue
        good = [r for r in rows if str(r["concurrency"]) == level and r["status"] == "ok"]
        values = [float(r[known[1]]) for r in good if r[known[1]] is not None]
        out.append(percentile_metric(metric.name, values, known[2]))
    return tuple(out)


def _numbers(verdict: Verdict) -> Iterator[tuple[str, object]]:
    yield "outcome", verdict.outcome
    yield "policy", verdict.policy_digest
    for piece in sorted(verdict.evidence, key=lambda piece: piece.suite):
        yield f"{piece.suite}: samples", piece.n_samples
        yield f"{piece.suite}: unscored", piece.n_unscored
        for metric in sorted(piece.metrics, key=lambda m: m.name):
            for name in ("value", "ci_low", "ci_high", "n"):
                yield f"{piece.suite}.{metric.name} {name}", getattr(metric, name)
    for result in sorted(verdict.comparisons, key=lambda r: (r.suite, r.metric)):
        numbers = result.model_dump(exclude={"incumbent", "categories"})
        yield from ((f"{result.suite}.{result.metric} {name}", value) for name, value in numbers.items())
    for c in sorted(verdict.criteria, key=lambda c: (c.suite, c.metric, c.rule)):
        yield f"{c.suite}.{c.metric} ({c.rule}) outcome", c.outcome


def _same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-12)
    return left == right
