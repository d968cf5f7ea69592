"""How many replicas the traffic asks for."""

from datetime import UTC, datetime, timedelta

import pytest

from modelops_dagster.domain.autoscale import Load, Recommendations, replicas_for
from modelops_dagster.domain.endpoints import AutoscaleTarget

AT = datetime(2026, 1, 2, tzinfo=UTC)
CONCURRENCY = AutoscaleTarget(metric="concurrency", target=4)
THROUGHPUT = AutoscaleTarget(metric="throughput", target=10)
LATENCY = AutoscaleTarget(metric="latency", target=500, percentile=95)
MEAN = AutoscaleTarget(metric="latency", target=500)
CPU = AutoscaleTarget(metric="cpu", target=80)
RAM = AutoscaleTarget(metric="ram", target=50)
GPU = AutoscaleTarget(metric="gpu", target=80)


@pytest.mark.parametrize(
    ("targets", "load", "current", "replicas"),
    [
        ([CONCURRENCY], Load(concurrency=0), 3, 1),
        ([CONCURRENCY], Load(concurrency=9), 1, 3),
        ([CONCURRENCY], Load(concurrency=8.7), 2, 2),  # within a tenth
        ([CONCURRENCY], Load(concurrency=9), 2, 3),
        ([CONCURRENCY], Load(concurrency=900), 2, 5),
        ([THROUGHPUT], Load(concurrency=1, throughput=25), 2, 3),
        ([LATENCY], Load(concurrency=1, latency_ms={95: 1000}), 2, 4),
        ([LATENCY], Load(concurrency=1, latency_ms={95: 250}), 4, 2),
        ([LATENCY], Load(concurrency=1, latency_ms={95: None}), 4, 1),
        ([MEAN], Load(concurrency=1, latency_ms={None: 800, 95: 9000}), 1, 2),
        ([CONCURRENCY, LATENCY], Load(concurrency=1, latency_ms={95: 1000}), 2, 4),
        ([GPU], Load(concurrency=99), 2, 2),
        ([CPU], Load(concurrency=0, cpu=120), 2, 3),
        ([CPU], Load(concurrency=0, cpu=20), 4, 1),
        ([CPU], Load(concurrency=0), 2, 2),  # no reading yet
        ([CPU, RAM], Load(concurrency=0, cpu=10, ram=100), 2, 4),
    ],
)
def test_replicas(targets: list[AutoscaleTarget], load: Load, current: int, replicas: int):
    assert replicas_for(load, targets, current, fewest=1, most=5) == replicas


def test_the_fewest_are_kept():
    assert replicas_for(Load(concurrency=0), [CONCURRENCY], 4, fewest=2, most=5) == 2


def test_down_only_to_what_was_needed_lately_up_at_once():
    asked = Recommendations(timedelta(seconds=30))
    seen = [asked.add(AT + timedelta(seconds=10 * step), n) for step, n in enumerate([3, 1, 1, 1, 4, 1])]
    assert seen == [3, 3, 3, 1, 4, 4]
