"""The score history at 0.1, 1 and 10 million sample rows: how long questions take, and what publishing costs.

A run is one model's 100 answers to one version of a suite, landed through the real landing code, one file per table:
2,000 models and 50 versions at 10 million rows, fewer versions and then fewer models below. Timed then:
publishing everything from nothing, publishing one more run, the leaderboard, one model's history, and one model's
samples, through `ScoreStore.query` with nothing warm but the operating system's page cache. `MODELOPS_BENCH_ROWS` may
name other sizes, comma-separated.
"""

import contextlib
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench.figures import Figure
from modelops_dagster.clients.scores import ScoreStore

MODELS, PER_RUN, METRICS, ITEMS = 2000, 100, 4, 400
SIZES = (100_000, 1_000_000, 10_000_000)
REPEATS = 7
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
BARS = {"leaderboard_ms": "< 100 at 10 million rows", "history_ms": "< 50 at 10 million rows"}


def run() -> Iterator[Figure]:
    """Yields every figure for every size, the rows in the metric's name; the plain names are those of the largest."""
    sizes = tuple(int(n) for n in os.environ.get("MODELOPS_BENCH_ROWS", "").split(",") if n) or SIZES
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = _measure(Path(folder), rows)
        for name, (value, unit) in found.items():
            yield Figure("score_queries", f"{name}_{rows}", value, unit, "")
        if rows == sizes[-1]:
            for name, (value, unit) in found.items():
                yield Figure("score_queries", name, value, unit, BARS.get(name, ""))


def _measure(home: Path, rows: int) -> dict[str, tuple[float, str]]:
    root = home / "scores"
    begun = time.perf_counter()
    writers = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with context.Pool(writers) as pool:
        pool.starmap(_land, [(root, rows, writer, writers) for writer in range(writers)])
    landed_s = time.perf_counter() - begun
    _say(f"{rows} rows landed in {landed_s:.0f} s")
    first_s, first_mb = _published(context, root)
    _say(f"published in {first_s:.1f} s")
    store = ScoreStore(root)
    _one_run(store, 0, 999)
    fresh_ms = _median_ms(lambda: store.query("from leaderboard"))
    next_s, next_mb = _published(context, root)
    model = "org/model-00700"
    return {
        "leaderboard_ms": (_median_ms(lambda: store.query("from leaderboard")), "ms"),
        "history_ms": (
            _median_ms(lambda: store.query("select * from score_history where repo_id = ?", [model])),
            "ms",
        ),
        "samples_of_one_model_ms": (
            _median_ms(lambda: store.query("select count(*), avg(score) from samples where repo_id = ?", [model])),
            "ms",
        ),
        "leaderboard_with_unpublished_ms": (fresh_ms, "ms"),
        "publish_s": (next_s, "s"),
        "publish_rss_mb": (next_mb, "MB"),
        "publish_from_nothing_s": (first_s, "s"),
        "publish_from_nothing_rss_mb": (first_mb, "MB"),
        "landed_per_s": (rows / landed_s, "rows/s"),
        "file_mb": (store.published.stat().st_size / 1e6, "MB"),
    }


def _land(root: Path, rows: int, writer: int, writers: int) -> None:
    store = ScoreStore(root)
    for run in range(writer, rows // PER_RUN, writers):
        _one_run(store, run % MODELS, run // MODELS)


def _one_run(store: ScoreStore, number: int, version: int) -> None:
    """One model's answers to one version of the suite: many samples, a few metrics."""
    repo_id, run_id = f"org/model-{number:05d}", f"run-{number:05d}-{version:03d}"
    at = FIRST + timedelta(days=version, seconds=number)
    whose: dict[str, Any] = {
        "run_id": run_id, "repo_id": repo_id, "commit_hash": f"{number:040x}", "lane": "raw",
        "endpoint": f"org-model-{number:05d}-raw", "engine": "vllm", "engine_version": "0.30.1", "suite": "quality",
        "suite_digest": f"sha256:{version:064x}", "instrument": f"sha256:{version:064x}",
    }  # fmt: skip
    samples = []
    for i in range(PER_RUN):
        item = (i * 7 + version) % ITEMS
        right = float((number * 31 + item * 17 + version) % 100 < 40 + number % 50)
        samples.append(
            whose
            | {
                "item_uid": f"sha256:{item:064x}", "sample_id": f"q-{item:04d}", "category": f"category-{item % 12}",
                "cluster": f"cluster-{item % 60}", "weight": 1.0, "expected": "answer", "epoch": 0,
                "input": f'[{{"role":"user","content":"What is {item} times {item + 1}? Answer with the number."}}]',
                "completion": f"{item} times {item + 1} is {item * (item + 1) + int(1 - right)}.",
                "finish_reason": "stop", "outcome_class": "correct" if right else "wrong", "score": right,
                "tokens_in": 25, "tokens_out": 9, "latency_ms": 80.0 + item + number % 7, "attempts": 1, "cache_hit": 0,
                "started_at": at,
            }
        )  # fmt: skip
    store.land("samples", samples, repo_id=repo_id, run_id=run_id)
    share = 0.4 + (number % 50) / 100
    metrics = [
        whose
        | {
            "scheme": "raw", "metric": name, "value": share, "ci_low": share - 0.05, "ci_high": share + 0.05,
            "n": PER_RUN, "unit": "share", "n_samples": PER_RUN, "n_unscored": 0, "evaluated_at": at,
        }
        for name in ("accuracy", *(f"accuracy:category-{i}" for i in range(METRICS - 1)))
    ]  # fmt: skip
    store.land("scores", metrics, repo_id=repo_id, run_id=run_id)


def _published(context: Any, root: Path) -> tuple[float, float]:
    """Seconds and the highest resident memory in MB of a process that does nothing else."""
    with context.Pool(1) as pool:
        seconds, megabytes = pool.apply(_publish, (root,))
    return seconds, megabytes


def _publish(root: Path) -> tuple[float, float]:
    begun = time.perf_counter()
    ScoreStore(root).publish()
    return time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _median_ms(ask: Callable[[], object]) -> float:
    with contextlib.suppress(OSError):
        os.nice(-10)  # measured beside whatever else this machine does
    took = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        ask()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


def _say(line: str) -> None:
    print(f"bench score_queries: {line}", file=sys.stderr)
