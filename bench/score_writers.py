"""64 processes land scores for a minute while 8 analysts ask and a publisher publishes: nothing lost, blocked or wrong.

A reader is wrong when it sees half of a file, fewer rows than before, or a published snapshot that lacks what an older
one had; it is blocked when an answer takes longer than `BLOCKED_S`. `MODELOPS_BENCH_SECONDS` may name another duration.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from bench.figures import Figure
from modelops_dagster.clients.scores import ScoreStore

WRITERS, READERS, ROWS = 64, 8, 5
# sixty-odd processes share the cores: an answer waits for them, and for nothing else
BLOCKED_S = 30.0


def run() -> Iterator[Figure]:
    """Yields what was lost, blocked and wrong, and how much was written and read meanwhile."""
    seconds = float(os.environ.get("MODELOPS_BENCH_SECONDS", "60"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.score_writers"])
    with tempfile.TemporaryDirectory() as folder:
        root, stop, landed, read = Path(folder) / "scores", context.Event(), context.Queue(), context.Queue()
        ready = context.Barrier(WRITERS + READERS + 2)
        writers = [context.Process(target=_write, args=(root, w, ready, stop, landed)) for w in range(WRITERS)]
        readers = [context.Process(target=_read, args=(root, r, ready, stop, read)) for r in range(READERS)]
        publisher = context.Process(target=_publish, args=(root, ready, stop))
        for process in (*writers, *readers, publisher):
            process.start()
        ready.wait(300)
        time.sleep(seconds)
        stop.set()
        files = sum(landed.get(timeout=300) for _ in writers)
        answers = [read.get(timeout=300) for _ in readers]
        for process in (*writers, *readers, publisher):
            process.join(300)
        ScoreStore(root).publish()
        with duckdb.connect(str(root / "scores.duckdb"), read_only=True) as published:
            held = published.execute("select count(*), count(distinct run_id) from scores").fetchall()[0]
    if not files or not all(a["answers"] for a in answers):
        raise RuntimeError(f"{files} files landed and {answers} were read: that is too little to say anything")
    yield Figure("score_writers", "lost", files * ROWS - held[0] + files - held[1], "rows", "0")
    yield Figure("score_writers", "blocked", sum(a["blocked"] for a in answers), "answers", "0")
    yield Figure("score_writers", "wrong_reads", sum(a["wrong"] for a in answers), "answers", "0")
    yield Figure("score_writers", "files_landed", files, "files", "")
    yield Figure("score_writers", "answers", sum(a["answers"] for a in answers), "answers", "")
    yield Figure("score_writers", "slowest_answer_s", max(a["slowest"] for a in answers), "s", f"<= {BLOCKED_S:g}")


def _write(root: Path, writer: int, ready: Any, stop: Any, landed: Any) -> None:
    ready.wait(300)
    store, done = ScoreStore(root), 0
    while not stop.is_set():
        run_id, repo_id = f"w{writer}-{done}", f"org/m{writer % 16}"
        rows = [
            {
                "run_id": run_id, "repo_id": repo_id, "commit_hash": "a" * 40, "lane": "raw", "endpoint": "e",
                "suite": "quality", "suite_digest": "d", "instrument": "i", "metric": f"m{k}",
                "value": float(k), "n": 1, "evaluated_at": datetime.now(UTC),
            }
            for k in range(ROWS)
        ]  # fmt: skip
        store.land("scores", rows, repo_id=repo_id, run_id=run_id)
        done += 1
        time.sleep(0.5)
    landed.put(done)


def _read(root: Path, reader: int, ready: Any, stop: Any, read: Any) -> None:
    ready.wait(300)
    seen = {"answers": 0, "wrong": 0, "blocked": 0, "slowest": 0.0}
    last = 0
    while reader % 2 and not (root / "scores.duckdb").exists() and not stop.is_set():
        time.sleep(0.1)
    while not stop.is_set():
        begun = time.monotonic()
        rows, runs, whole = _counted(root, through_the_file=reader % 2 == 1)
        took = time.monotonic() - begun
        seen["answers"] += 1
        seen["wrong"] += rows != ROWS * runs or rows != whole or rows < last
        seen["blocked"] += took > BLOCKED_S
        seen["slowest"] = max(seen["slowest"], took)
        last = rows
    read.put(seen)


def _counted(root: Path, *, through_the_file: bool) -> tuple[int, int, int]:
    """Rows, runs, and rows of whole runs; through the store, or as an analyst opens the published file."""
    sql = (
        f"select count(*), count(distinct run_id), count(*) filter (k = {ROWS}) from "  # noqa: S608
        "(select run_id, count(*) over (partition by run_id) as k from scores)"
    )
    published = root / "scores.duckdb"
    if not through_the_file or not published.exists():
        (found,) = ScoreStore(root).query(sql)[1]
        return found[0], found[1], found[2]
    with duckdb.connect(str(published), read_only=True) as connection:
        found = connection.execute(sql).fetchall()[0]
    return found[0], found[1], found[2]


def _publish(root: Path, ready: Any, stop: Any) -> None:
    ready.wait(300)
    while not stop.is_set():
        ScoreStore(root).publish()
        time.sleep(1)
