"""The score history under real processes: landing, publishing, reading, and what a query must not reach."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelops_dagster.clients.scores import ScoreStore, previous_comparison
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.scores import TABLES
from tests.clients.score_rows import NOW, score, verdict


@pytest.fixture
def store(tmp_path: Path) -> ScoreStore:
    return ScoreStore(tmp_path / "scores")


def value(store: ScoreStore, sql: str) -> Any:
    return store.query(sql)[1][0][0]


# -- landing --------------------------------------------------------------------------------------------------------


def test_an_empty_store_has_every_table_and_view_with_no_rows(store: ScoreStore) -> None:
    assert store.counts() == dict.fromkeys(TABLES, 0)
    for view in ("score_history", "latest_scores", "latest_verdicts", "leaderboard"):
        assert store.query(f"from {view}")[1] == []
    assert store.latest_verdicts() == []
    with duckdb.connect(str(store.publish()), read_only=True) as published:
        assert published.execute("select * from leaderboard").fetchall() == []


def test_rows_come_back_as_they_were_landed(store: ScoreStore) -> None:
    path = store.land("scores", [score(ci_low=0.4, n_unscored=0)], repo_id="org/model", run_id="run-1")
    today = f"day={datetime.now(UTC):%Y-%m-%d}"
    assert path.relative_to(store.root).parts[:3] == ("landing", "scores", today)
    assert path.name == "org%2Fmodel+run-1-raw-quality.parquet"
    columns, rows = store.query("select * from scores")
    assert columns == [name for name, _ in TABLES["scores"]]
    row = dict(zip(columns, rows[0], strict=True))
    assert row["evaluated_at"] == NOW
    assert (row["value"], row["ci_low"], row["ci_high"], row["n_unscored"], row["scheme"]) == (0.5, 0.4, None, 0, None)


def test_landing_a_part_again_replaces_its_own_file_only(store: ScoreStore) -> None:
    for number in (0.1, 0.2):
        store.land("scores", [score(value=number)], repo_id="org/model", run_id="run-1")
        store.land("scores", [score(value=number, suite="contract")], repo_id="org/model", run_id="run-1")
        store.land("scores", [score(value=number, lane="fp8")], repo_id="org/model", run_id="run-1")
    store.land("scores", [score("run-2", value=0.3)], repo_id="org/model", run_id="run-2")
    assert sorted(v for (v,) in store.query("select value from scores")[1]) == [0.2, 0.2, 0.2, 0.3]
    assert len({path.name for path in store.landing.root.rglob("*.parquet")}) == 4


@pytest.mark.parametrize(
    ("table", "row", "words"),
    [
        ("nope", score(), "there is no score table 'nope'"),
        ("scores", score(metrc="x"), "no column 'metrc'"),
        ("scores", score(value="high"), "column value of table scores holds float values"),
        ("scores", score(n=1.5), "column n of table scores holds int values"),
        ("scores", score(repo_id="org/other"), "repo_id='org/other' but belongs to 'org/model'"),
        ("scores", score("run-9"), "run_id='run-9' but belongs to 'run-1'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_leave_nothing(
    store: ScoreStore, table: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        store.land(table, [row], repo_id="org/model", run_id="run-1")
    assert not store.root.exists()


def test_a_name_cannot_leave_the_folder(store: ScoreStore) -> None:
    path = store.land("scores", [score("../../x", "../../etc")], repo_id="../../etc", run_id="../../x")
    assert path.resolve().is_relative_to(store.landing.root.resolve())
    assert value(store, "select repo_id from scores") == "../../etc"


def test_files_of_an_older_and_a_newer_layout_are_read(store: ScoreStore) -> None:
    folder = store.landing.root / "scores" / "model=org%2Fmodel"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"repo_id": ["org/model"], "metric": ["old"]}), folder / "old.parquet")
    pq.write_table(pa.table({"repo_id": ["org/model"], "metric": ["new"], "cost": [1.5]}), folder / "new.parquet")
    assert store.query("select metric, value from scores order by 1")[1] == [("new", None), ("old", None)]
    with duckdb.connect(str(store.publish()), read_only=True) as published:
        assert published.execute("select count(*) from scores").fetchall() == [(2,)]


def test_a_damaged_file_is_named(store: ScoreStore) -> None:
    store.land("scores", [score()], repo_id="org/model", run_id="run-1").write_bytes(b"PAR1 not")
    with pytest.raises(IntegrityError, match=r"run-1-raw-quality\.parquet.*move it away"):
        store.counts()


# -- publishing -----------------------------------------------------------------------------------------------------


def test_queries_see_what_landed_after_the_last_snapshot(store: ScoreStore) -> None:
    store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    first = store.publish()
    assert store.published.resolve() == first
    assert store.publish() == first, "nothing landed, nothing to build"
    store.land("scores", [score("run-2")], repo_id="org/model", run_id="run-2")
    assert store.counts()["scores"] == 2
    second = store.publish()
    assert second > first
    with duckdb.connect(str(store.published), read_only=True) as published:
        assert published.execute("select count(*) from score_history").fetchall() == [(2,)]


def test_a_replaced_part_is_not_counted_twice(store: ScoreStore) -> None:
    store.land("scores", [score(value=0.1)], repo_id="org/model", run_id="run-1")
    store.publish()
    store.land("scores", [score(value=0.9)], repo_id="org/model", run_id="run-1")
    assert store.query("select value from scores")[1] == [(0.9,)]
    store.publish()
    assert store.query("select value from scores")[1] == [(0.9,)]


def test_three_snapshots_stay_and_a_reader_keeps_the_one_it_opened(store: ScoreStore) -> None:
    store.land("scores", [score("r")], repo_id="org/model", run_id="r")
    store.publish()
    with duckdb.connect(str(store.published), read_only=True) as reader:
        for i in range(5):
            store.land("scores", [score(f"r{i}")], repo_id="org/model", run_id=f"r{i}")
            store.publish()
        assert reader.execute("select count(*) from scores").fetchall() == [(1,)]
    assert len(list(store.root.glob("scores-*.duckdb"))) == 3
    assert store.counts()["scores"] == 6
    assert sorted(p.name for p in store.root.iterdir() if p.name.startswith(".")) == [".publish.lock"]


def test_a_snapshot_that_somebody_holds_for_writing_does_not_stop_anybody(store: ScoreStore) -> None:
    store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    store.publish().chmod(0o644)
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.published)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as analyst:
        assert analyst.stdout is not None
        assert analyst.stdout.readline() == b"open\n"
        store.land("scores", [score("run-2")], repo_id="org/model", run_id="run-2")
        assert store.counts()["scores"] == 2
        store.publish()
        assert store.counts()["scores"] == 2
        analyst.kill()


def test_what_a_killed_publisher_left_is_cleared(store: ScoreStore) -> None:
    store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    (store.root / ".building-scores-x.duckdb").write_bytes(b"half")
    assert store.counts()["scores"] == 1
    store.publish()
    assert not list(store.root.glob(".building*"))


# -- views ----------------------------------------------------------------------------------------------------------


def test_the_history_compares_only_on_one_instrument(store: ScoreStore) -> None:
    numbers = [(0.5, "i"), (0.7, "i"), (0.6, "other")]
    for day, (number, instrument) in enumerate(numbers):
        row = score(f"r{day}", value=number, instrument=instrument, evaluated_at=NOW + timedelta(days=day))
        store.land("scores", [row], repo_id="org/model", run_id=f"r{day}")
    rows = store.query("select value, round(change, 6) from score_history order by evaluated_at")[1]
    assert rows == [(0.5, None), (0.7, 0.2), (0.6, None)]


def test_the_latest_scores_are_those_of_the_latest_run(store: ScoreStore) -> None:
    old = [score("r1"), score("r1", metric="gone")]
    store.land("scores", old, repo_id="org/model", run_id="r1")
    new = score("r2", value=0.9, evaluated_at=NOW + timedelta(hours=1))
    store.land("scores", [new], repo_id="org/model", run_id="r2")
    assert store.query("select metric, value from latest_scores")[1] == [("accuracy", 0.9)]


def test_the_leaderboard_ranks_models_that_answered_the_same_questions(store: ScoreStore) -> None:
    for repo_id, number, digest in (("org/a", 0.5, "d1"), ("org/b", 0.8, "d1"), ("org/c", 0.1, "d2")):
        row = score("r", repo_id, value=number, suite_digest=digest)
        store.land("scores", [row], repo_id=repo_id, run_id="r")
    assert store.query("select repo_id, rank, accuracy from leaderboard")[1] == [
        ("org/b", 1, 0.8),
        ("org/a", 2, 0.5),
        ("org/c", 1, 0.1),
    ]


def test_a_verdict_comes_back_whole_and_counts_once(store: ScoreStore) -> None:
    first = verdict("hold")
    store.land_verdict(first, run_id="run-1")
    store.land_verdict(first, run_id="run-2")
    assert store.counts()["verdicts"] == 1
    assert store.latest_verdicts("org/model") == [first]
    later = verdict("pass", "f" * 16, NOW + timedelta(hours=1))
    store.land_verdict(later, run_id="run-3")
    assert store.latest_verdicts() == [later]
    assert store.latest_verdicts("org/nobody") == []
    assert json.loads(value(store, "select criteria from latest_verdicts"))[0]["rule"] == ">= 0.40"


# -- what a query may not do ----------------------------------------------------------------------------------------

SECRET = "not for a query"


@pytest.mark.parametrize("is_published", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        "copy scores to '{out}'",
        "explain analyze copy (select 1) to '{out}'",
        "attach '{out}' as x",
        "export database '{out}'",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from read_text('{secret}')",
        "select * from read_parquet('{landed}')",
        "select * from glob('/etc/*')",
        "select * from read_csv('http://127.0.0.1:9/x')",
        "insert into scores values (1)",
        "insert into fresh.scores (run_id) values ('x')",
        "with x as (insert into fresh.scores (run_id) values ('x') returning *) select * from x",
        "delete from fresh.scores",
        "drop view scores",
        "create table x as select 1",
        "detach past",
        "set enable_external_access = true",
        "pragma enable_profiling",
        "install httpfs",
        "load '{out}'",
        "commit",
        "select 1; drop view scores",
        "select * from caller_frame",
        "select getenv('HOME')",
        "call pragma_version()",
        "",
        "select",
        "select nope from scores",
    ],
)
def test_a_query_only_reads_the_history(store: ScoreStore, tmp_path: Path, sql: str, is_published: bool) -> None:
    caller_frame = pa.table({"secret": [SECRET]})
    assert caller_frame.num_rows == 1
    landed = store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    if is_published:
        store.publish()
    (tmp_path / "secret.txt").write_text(SECRET)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidSpec) as refused:
        store.query(sql.format(out=tmp_path / "out", secret=tmp_path / "secret.txt", landed=landed))
    assert "\n" not in str(refused.value)
    assert refused.value.field == "sql"
    assert sorted(tmp_path.rglob("*")) == before
    assert store.counts()["scores"] == 1


@pytest.mark.parametrize(
    "sql",
    [
        "from scores",
        "with x as (select * from scores) select count(*) from x",
        "describe scores",
        "summarize scores",
        "show tables",
        "explain select * from scores",
        "pivot scores on metric using max(value)",
        "select json_extract(criteria, '$[0].rule') from verdicts",
        "select date_trunc('day', evaluated_at) from scores -- a comment",
        "select * from leaderboard;",
    ],
)
def test_reading_statements_of_every_kind_answer(store: ScoreStore, sql: str) -> None:
    store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    store.land_verdict(verdict(), run_id="run-1")
    assert store.query(sql)[1]


def test_a_revision_is_compared_with_the_one_before_it_in_its_own_lane(tmp_path: Path):
    store = ScoreStore(tmp_path)
    old, new = "a" * 40, "b" * 40
    rows = [
        ("r1", score("r1", value=0.5, evaluated_at=NOW)),
        ("r2", score("r2", value=0.75, commit_hash=new, evaluated_at=NOW + timedelta(hours=1))),
        ("r3", score("r3", value=0.1, commit_hash="c" * 40, lane="fp8", evaluated_at=NOW + timedelta(minutes=1))),
    ]
    for run, row in rows:
        store.land("scores", [row], repo_id="org/model", run_id=run)
    found = previous_comparison(store, "org/model", "raw", new)
    assert found is not None
    assert (found.previous_commit, found.changes[0].difference) == (old, 0.25)
    assert previous_comparison(store, "org/model", "raw", old) is None
    assert previous_comparison(store, "org/other", "raw", new) is None
