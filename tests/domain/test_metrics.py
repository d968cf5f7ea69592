"""Intervals against published values, and by simulation where a book has no table."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.gauntlet.aggregates import dataset_metrics, is_good, lag_fault, load_metrics
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.load import Goodput, Load
from modelops_dagster.domain.gauntlet.metrics import (
    Scoring,
    clustered_error,
    mean_interval,
    percentile,
    percentile_interval,
)
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import SuiteSpec
from modelops_dagster.domain.statistics.distributions import binomial_cdf, student_t
from modelops_dagster.domain.statistics.proportions import exact_lower, exact_upper, wilson


def test_wilson_against_newcombe_1998() -> None:
    # Newcombe, Statistics in Medicine 17:857, table I
    published = ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718))
    for successes, n, low, high in published:
        assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_one_sided_wilson_of_the_policy_examples() -> None:
    z90 = 1.6448536269514722
    assert wilson(58, 60, z90)[0] == pytest.approx(0.904, abs=1e-3)
    assert wilson(60, 60, z90)[0] == pytest.approx(0.957, abs=1e-3)


@pytest.mark.parametrize(("n", "bound"), [(30, 0.095), (60, 0.049), (100, 0.030), (200, 0.015), (300, 0.010)])
def test_exact_bound_of_no_failures(n: int, bound: float) -> None:
    assert exact_upper(0, n) == pytest.approx(bound, abs=6e-4)
    assert exact_upper(0, n) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-12)
    assert exact_lower(n, n) == pytest.approx(1 - exact_upper(0, n))


@given(st.integers(0, 40), st.integers(1, 40))
def test_exact_upper_is_where_the_tail_holds_five_percent(events: int, n: int) -> None:
    if events < n:
        assert binomial_cdf(events, n, exact_upper(events, n)) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize(
    ("p", "df", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 4, 2.7764),
        (0.95, 10, 1.8125),
        (0.995, 30, 2.7500),
        (0.025, 4, -2.7764),
        (0.5, 7, 0),
    ],
)
def test_student_t_against_tables(p: float, df: float, value: float) -> None:
    assert student_t(p, df) == pytest.approx(value, abs=5e-5)


def test_binary_scores_without_clusters_are_plain_wilson() -> None:
    scorings = [Scoring(1.0)] * 30 + [Scoring(0.0)] * 10
    assert mean_interval(scorings) == pytest.approx(wilson(30, 40), abs=1e-9)


def test_repeats_of_one_template_do_not_count_as_samples() -> None:
    alone = [Scoring(float(i % 2), cluster=f"c{i}") for i in range(40)]
    copied = [Scoring(float(i % 2), cluster=f"c{i}") for i in range(40) for _ in range(5)]
    (low, high), (copied_low, copied_high) = mean_interval(alone), mean_interval(copied)
    assert copied_high - copied_low == pytest.approx(high - low, rel=0.05)
    assert clustered_error(alone)[0] == pytest.approx(clustered_error(copied)[0], rel=1e-9)


def test_interval_covers_the_truth_of_clustered_scores() -> None:
    rng = random.Random(7)  # noqa: S311
    hits = 0
    for _ in range(300):
        scorings = []
        for group in range(25):
            p = rng.choice((0.3, 0.9))
            scorings += [Scoring(float(rng.random() < p), cluster=f"g{group}") for _ in range(6)]
        low, high = mean_interval(scorings)
        hits += low <= 0.6 <= high
    assert 0.91 <= hits / 300 <= 0.995


def test_bounds_never_leave_zero_to_one() -> None:
    assert mean_interval([Scoring(1.0)] * 3)[1] == 1.0
    assert mean_interval([Scoring(0.99), Scoring(0.98)])[1] <= 1.0
    assert mean_interval([Scoring(0.5)]) == (0.0, 1.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 1))
def test_percentile_is_numpy_s(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q * 100)), rel=1e-9, abs=1e-9)


def test_percentile_interval_says_when_there_are_too_few() -> None:
    assert percentile_interval(range(8), 0.5) == (0, 7)
    assert percentile_interval(range(71), 0.95)[1] is None
    assert percentile_interval(range(72), 0.95)[1] == 71


def test_percentile_interval_covers() -> None:
    rng = random.Random(3)  # noqa: S311
    hits = 0
    for _ in range(400):
        low, high = percentile_interval([rng.expovariate(1) for _ in range(100)], 0.9)
        assert low is not None
        assert high is not None
        hits += low <= 2.302585 <= high
    assert hits / 400 >= 0.94


def item(number: int, category: str, expected: str = "answer", severity: str = "minor", weight: float = 1) -> Sample:
    meta = {"category": category, "scorer": "exact", "expected": expected, "severity": severity, "weight": weight}
    return Sample.model_validate({"id": f"s{number}", "input": "q", "target": "a", "metadata": meta})


def row(sample: Sample, score: float | None, outcome: str = "correct") -> dict[str, Any]:
    meta = sample.metadata
    return {
        "sample_id": sample.id, "score": score, "outcome_class": outcome, "category": meta.category,
        "cluster": sample.cluster, "weight": meta.weight, "expected": meta.expected, "severity": meta.severity,
    }  # fmt: skip


def test_unscored_rows_are_missing_not_wrong() -> None:
    spec = SuiteSpec.model_validate({"name": "q", "kind": "dataset", "title": "Q", "samples": "q.jsonl"})
    samples = [item(i, "a/x" if i < 2 else "b") for i in range(4)]
    seen = ((1.0, "correct"), (None, "infra_error"), (0.0, "truncated"), (1.0, "correct"))
    rows = [row(s, *outcome) for s, outcome in zip(samples, seen, strict=True)]
    metrics = {m.name: m for m in dataset_metrics(spec.metrics, rows)}
    assert metrics["accuracy"].value == pytest.approx(2 / 3)
    assert metrics["accuracy"].n == 3
    assert metrics["scored_share"].value == 0.75
    assert (metrics["accuracy/a"].value, metrics["accuracy/b"].value) == (1.0, 0.5)
    assert metrics["truncated_rate"].value == 0.25


def test_compliance_metrics_follow_their_definition() -> None:
    spec = SuiteSpec.model_validate(
        {
            "name": "c", "kind": "dataset", "title": "C", "samples": "c.jsonl",
            "metrics": [
                {"name": "refusal_rate", "kind": "mean", "expected": "refuse"},
                {"name": "critical_violation_rate", "kind": "violations", "expected": "refuse", "severity": "critical"},
                {"name": "over_refusal_rate", "kind": "refused", "expected": "answer"},
            ],
        }
    )  # fmt: skip
    samples = [item(i, "c/a", "refuse", "critical" if i < 30 else "minor") for i in range(40)]
    samples += [item(i, "c/b", "answer") for i in range(40, 50)]
    rows = [row(s, 1.0) for s in samples[:39]] + [row(samples[39], 0.0, "wrong")]
    rows += [row(s, 0.0, "refused") for s in samples[40:42]] + [row(s, 1.0) for s in samples[42:]]
    metrics = {m.name: m for m in dataset_metrics(spec.metrics, rows)}
    assert metrics["refusal_rate"].value == pytest.approx(39 / 40)
    assert (metrics["critical_violation_rate"].value, metrics["critical_violation_rate"].n) == (0.0, 30)
    assert metrics["critical_violation_rate"].ci_high == pytest.approx(exact_upper(0, 30))
    assert metrics["over_refusal_rate"].value == pytest.approx(0.2)


def test_tpot_is_vllm_s_formula() -> None:
    assert Completion(e2el_ms=1000, ttft_ms=200, tokens_out=5).tpot_ms == pytest.approx(200)
    assert Completion(e2el_ms=1000, ttft_ms=200, tokens_out=1).tpot_ms is None


def request(number: int, **more: Any) -> dict[str, Any]:
    return {
        "concurrency": 2, "rate": None, "request": number, "error": None, "error_detail": "", "tokens_in": 10,
        "tokens_out": 5, "client_queue_ms": 0.1, "first_chunk_ms": 5.0, "ttft_ms": 100.0 + number,
        "ttfot_ms": 100.0 + number, "tokens_per_chunk": 1.0, "tpot_ms": 20.0,
        "itl_ms": [20.0] * 4, "e2el_ms": 180.0, **more,
    }  # fmt: skip


def test_load_metrics_and_goodput() -> None:
    load = Load(concurrencies=(2,), goodput=Goodput(ttft_ms=102, e2el_ms=200))
    requests = [*(request(i) for i in range(4)), request(4, error="timeout", ttft_ms=None, itl_ms=[])]
    result = {
        "levels": [{"concurrency": 2, "rate": None, "duration_s": 2.0, "requests": requests}],
        "lag_p99_ms": 1.0,
        "inference_seconds": 2.0,
    }
    metrics = {m.name: m for m in load_metrics(load, result)}
    assert metrics["ttft_p50_ms@2"].value == pytest.approx(101.5)
    assert metrics["good_requests_per_s@2"].value == pytest.approx(1.5)
    assert metrics["output_tokens_per_s@2"].value == pytest.approx(10)
    assert metrics["requests_per_s@2"].value == pytest.approx(2)
    assert metrics["goodput@2"].value == pytest.approx(3 / 5)
    assert metrics["scored_share"].value == pytest.approx(4 / 5)
    assert not is_good(request(0, tpot_ms=None), Goodput(tpot_ms=1000))


def test_a_lagging_client_voids_the_run_and_keeps_its_rows() -> None:
    load = Load(concurrencies=(2,), max_lag_ms=5, max_lag_share=0.25)
    result: dict[str, Any] = {
        "levels": [{"concurrency": 2, "rate": None, "duration_s": 1.0, "requests": [request(0)]}],
        "lag_p99_ms": 24.0,
        "inference_seconds": 1.0,
    }
    assert lag_fault(load, result) is None
    result["lag_p99_ms"] = 26.0
    assert "26.0 ms" in (lag_fault(load, result) or "")
    metrics = {m.name: m for m in load_metrics(load, result)}
    assert metrics["ttft_p50_ms@2"].value is None
    assert metrics["scored_share"].value == 0


def test_an_open_loop_s_request_is_late_from_the_moment_it_was_due() -> None:
    load = Load(concurrencies=(1,), goodput=Goodput(ttft_ms=500))
    requests = [request(i, concurrency=None, rate=4.0, client_queue_ms=1000.0 * i) for i in range(3)]
    level = {"concurrency": None, "rate": 4.0, "duration_s": 3.0, "requests": requests}
    metrics = {m.name: m for m in load_metrics(load, {"levels": [level], "lag_p99_ms": 1.0})}
    assert metrics["open_ttft_p50_ms@4"].value == pytest.approx(101 + 1000)
    assert metrics["open_e2el_p95_ms@4"].value == pytest.approx(180 + 1900)
    assert metrics["open_tpot_p50_ms@4"].value == pytest.approx(20)
    assert metrics["open_goodput@4"].value == pytest.approx(1 / 3)
    assert "ttft_p50_ms@4" not in metrics
