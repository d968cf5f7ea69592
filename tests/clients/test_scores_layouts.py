"""Landed files of every layout there ever was are read as one history."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelops_dagster.clients.scores import ScoreStore, landing
from modelops_dagster.clients.scores.answers import answers
from modelops_dagster.domain.scores import TABLES
from tests.clients.score_rows import NOW, score, verdict

# one folder for each set of columns that was ever written, oldest first; a change of columns adds one
PAST = sorted(
    (Path(__file__).parents[1] / "golden" / "landing").iterdir(),
    key=lambda version: int(version.name.removeprefix("v")),
)


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def _land_past(store: ScoreStore) -> None:
    for version in PAST:
        shutil.copytree(version, store.landing.root, dirs_exist_ok=True)


def _stored(table: str) -> list[Path]:
    return [path for version in PAST for path in (version / table).rglob("*.parquet")]


@pytest.mark.parametrize("published", [False, True])
def test_every_past_layout_is_read(store: ScoreStore, published: bool):
    _land_past(store)
    if published:
        store.publish()
    for table in TABLES:
        columns, rows = store.query(f"from {table}")
        assert columns == [name for name, _ in TABLES[table]]
        assert len(rows) == len(_stored(table)) > 0, table
    assert store.query("select distinct weight from samples")[1] == [(1.0,)], "weights came later, and were one before"
    assert store.query("select run_id, preference from judgements order by run_id")[1] == [
        ("run-v8", None),
        ("run-v9", 0.5),
    ]
    assert store.query("select run_id, first_seen_at is null from registrations order by run_id")[1] == [
        ("run-v7", True),
        ("run-v9", False),
    ]
    assert store.verdict("0000000000000001") is not None
    assert answers(store, "run-v1", "quality", "e", "perf_requests"), "old load requests do not say of which suite"


@pytest.mark.parametrize("table", TABLES)
def test_a_change_of_columns_comes_with_stored_files_of_the_layout_before(table: str):
    """The newest stored file of a table has today's columns; write one into a new folder when they change."""
    assert pq.ParquetFile(_stored(table)[-1]).schema_arrow.equals(landing.SCHEMAS[table])


def test_old_and_new_files_of_one_part_count_once(store: ScoreStore):
    folder = store.landing.root / "scores" / "model=org%2Fmodel"
    folder.mkdir(parents=True)
    store.land("scores", [score(value=0.9)], repo_id="org/model", run_id="run-1").rename(
        folder / "run-1-raw-quality.parquet"
    )
    os.utime(folder / "run-1-raw-quality.parquet", (1, 1))
    store.publish()
    store.land("scores", [score(value=0.2)], repo_id="org/model", run_id="run-1")
    assert store.query("select value from scores")[1] == [(0.2,)]
    assert store.query("select value from latest_scores")[1] == [(0.2,)]
    store.publish()
    assert store.query("select value from latest_scores")[1] == [(0.2,)]


def test_a_part_that_lands_again_on_a_later_day_takes_the_place_of_the_first(store: ScoreStore):
    first = store.land("scores", [score(value=0.1)], repo_id="org/model", run_id="run-1")
    store.land("scores", [score("run-0", value=0.3)], repo_id="org/model", run_id="run-0")
    old = first.parents[1].with_name("day=2020-01-01") / first.parent.name
    old.parent.mkdir()
    first.parent.rename(old)
    for path in old.iterdir():
        os.utime(path, (1, 1))
    store.publish()
    store.land("scores", [score(value=0.9)], repo_id="org/model", run_id="run-1")
    assert sorted(v for (v,) in store.query("select value from scores")[1]) == [0.3, 0.9]
    store.publish()
    assert sorted(v for (v,) in store.query("select value from scores")[1]) == [0.3, 0.9]


def test_a_removed_file_leaves_the_history(store: ScoreStore):
    kept = score("r1", value=0.1)
    gone = score("r2", value=0.9, evaluated_at=NOW + timedelta(hours=1))
    store.land("scores", [kept], repo_id="org/model", run_id="r1")
    path = store.land("scores", [gone], repo_id="org/model", run_id="r2")
    store.publish()
    path.unlink()
    for _ in range(2):
        assert store.query("select value from latest_scores")[1] == [(0.1,)]
        store.publish()


def test_a_snapshot_of_another_layout_is_made_anew(store: ScoreStore, monkeypatch: pytest.MonkeyPatch):
    from modelops_dagster.clients.scores import snapshot

    store.land("scores", [score("r1")], repo_id="org/model", run_id="r1")
    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "LAYOUT", "an older one")
        first = store.publish()
    store.land_verdict(verdict(), run_id="r1")
    assert store.counts()["scores"] == 1
    assert store.publish() != first
    assert store.counts() == {**dict.fromkeys(TABLES, 0), "scores": 1, "verdicts": 1}


def test_a_name_that_no_filesystem_takes_is_cut(store: ScoreStore):
    long = "org/" + "x" * 150
    for run in ("a" * 60, "a" * 59 + "b"):
        path = store.land("scores", [score(run, long, suite="s" * 40)], repo_id=long, run_id=run)
        assert len(path.name) < 255
    assert store.counts()["scores"] == 2


def test_many_files_are_loaded_in_batches(store: ScoreStore, monkeypatch: pytest.MonkeyPatch):
    from modelops_dagster.clients.scores import snapshot

    monkeypatch.setattr(snapshot, "BATCH_FILES", 3)
    for i in range(10):
        store.land("scores", [score(f"r{i}", f"org/m{i}", value=i / 10)], repo_id=f"org/m{i}", run_id=f"r{i}")
    assert store.counts()["scores"] == 10
    store.publish()
    assert store.query("select sum(value) from latest_scores")[1] == [(pytest.approx(4.5),)]
    assert landing.part_key("scores/day=2026-01-01/0812/a+b.parquet") == "scores/a+b.parquet"
