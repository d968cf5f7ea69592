"""The score history under many real processes: nothing lost, nobody waits, nothing half-written is read."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelops_dagster.clients.scores import ScoreStore
from tests.clients.score_rows import score

WRITERS, PER_WRITER = 16, 10


def _write(root: Path, writer: int) -> None:
    store = ScoreStore(root)
    for i in range(PER_WRITER):
        run = f"w{writer}-{i}"
        rows = [score(run, f"org/m{writer % 4}", metric=f"m{k}", value=float(writer * 1000 + i)) for k in range(5)]
        store.land("scores", rows, repo_id=f"org/m{writer % 4}", run_id=run)


def _publish(root: Path, stop: Any) -> None:
    while not stop.is_set():
        ScoreStore(root).publish()
        time.sleep(0.05)


def _read(root: Path, stop: Any, seen: Any) -> None:
    store, last, slowest = ScoreStore(root), 0, 0.0
    while not stop.is_set():
        start = time.monotonic()
        (rows, parts, wholes), *_ = store.query(
            "select count(*), count(distinct run_id), count(*) filter (k = 5) from "
            "(select run_id, count(*) over (partition by run_id) as k from scores)"
        )[1]
        slowest = max(slowest, time.monotonic() - start)
        if rows < last or rows != 5 * parts or rows != wholes:
            seen.put(f"went from {last} to {rows} rows of {parts} runs, {wholes} in whole runs")
        last = rows
        if store.published.exists():
            with duckdb.connect(str(store.published), read_only=True) as published:
                published.execute("select count(*) from leaderboard").fetchall()
    seen.put(slowest)


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


@pytest.fixture
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["modelops_dagster.clients.scores"])
    yield context


def test_sixteen_writers_a_publisher_and_a_reader_lose_nothing_and_wait_for_nobody(
    store: ScoreStore, processes: Any
) -> None:
    store.root.mkdir()
    stop, seen = processes.Event(), processes.Queue()
    others = [
        processes.Process(target=_publish, args=(store.root, stop)),
        processes.Process(target=_read, args=(store.root, stop, seen)),
    ]
    writers = [processes.Process(target=_write, args=(store.root, w)) for w in range(WRITERS)]
    for process in (*others, *writers):
        process.start()
    for process in writers:
        process.join(60)
        assert process.exitcode == 0
    stop.set()
    slowest = seen.get(timeout=30)
    for process in others:
        process.join(60)
        assert process.exitcode == 0
    assert isinstance(slowest, float), slowest
    assert slowest < 10
    assert store.counts()["scores"] == WRITERS * PER_WRITER * 5
    with duckdb.connect(str(store.publish()), read_only=True) as published:
        assert published.execute("select count(*), count(distinct run_id) from scores").fetchall() == [
            (WRITERS * PER_WRITER * 5, WRITERS * PER_WRITER)
        ]


def _write_forever(root: Path) -> None:
    store, i = ScoreStore(root), 0
    while True:
        rows = [score(f"k{os.getpid()}-{i}", metric=f"m{k}", commit_hash=os.urandom(20).hex()) for k in range(20_000)]
        store.land("scores", rows, repo_id="org/model", run_id=f"k{os.getpid()}-{i}")
        i += 1


def test_a_writer_that_is_killed_leaves_nothing_that_is_taken_for_whole(store: ScoreStore, processes: Any) -> None:
    folder = store.landing.root / "scores"
    leftovers = 0
    for _ in range(3):
        writer = processes.Process(target=_write_forever, args=(store.root,))
        writer.start()
        deadline = time.monotonic() + 30
        while not list(folder.rglob(".*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.0005)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        leftovers = len(list(folder.rglob(".*.tmp")))
    assert leftovers > 0, "no writer was killed in the middle of a write"
    whole = len(list(folder.rglob("*.parquet")))
    assert store.query("select count(*), count(distinct run_id) from scores")[1] == [(whole * 20_000, whole)]
    for leftover in folder.rglob(".*.tmp"):
        os.utime(leftover, (0, 0))
    store.publish()
    assert not list(folder.rglob(".*.tmp"))
