"""What is asked of the score history: the twenty questions of the documentation, and the views by themselves."""

import os
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelops_dagster.clients.scores import ScoreStore
from tests.clients.score_world import NEW, OLD, SMALL, TINY, fill

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"
QUESTIONS = re.findall(r"^### (\d+)\. (.+?)\n\n```sql\n(.+?)\n```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module", params=["landed", "published"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ScoreStore:
    home = tmp_path_factory.mktemp("home")
    filled = fill(home)
    if request.param == "published":
        for path in (home / "gateway" / "calls").rglob("*.parquet"):
            os.utime(path, (1, 1))
        filled.publish()
    return filled


def rows(store: ScoreStore, sql: str) -> list[tuple[Any, ...]]:
    return store.query(sql)[1]


def test_there_are_twenty_questions():
    assert [int(number) for number, _, _ in QUESTIONS] == list(range(1, 21))


@pytest.mark.parametrize("sql", [q[2] for q in QUESTIONS], ids=[q[1] for q in QUESTIONS])
def test_every_question_of_the_page_has_an_answer(store: ScoreStore, sql: str):
    assert rows(store, sql)


def test_a_regression_is_one_whose_interval_left_the_earlier_one(store: ScoreStore):
    found = rows(store, "select repo_id, metric, value, previous_value, previous_commit from regressions")
    assert found == [(TINY, "accuracy", 0.5, 0.75, OLD)]


def test_flips_are_the_samples_that_two_arms_did_not_answer_alike(store: ScoreStore):
    found = rows(store, "select sample_id, change, completion, incumbent_completion from flips")
    assert found == [("q2", "worse", "run-new on q2", "run-old on q2")]
    between = f"select sample_id, change from flips_between('{TINY}', '{SMALL}', 'quality')"
    assert rows(store, between) == [("q2", "worse")], "on the newest instrument that both were asked with"


def test_a_fallback_names_every_rung_that_was_left(store: ScoreStore):
    found = rows(store, "select repo_id, stands_on, rungs_left, why, start_seconds from fallbacks")
    assert found == [(TINY, "transformers", 1, "vllm-cpu: unsupported_architecture", 7.5)]


def test_the_time_to_preview_counts_from_the_request(store: ScoreStore):
    assert rows(store, "select repo_id, hours from time_to_preview") == [(TINY, 3.0)]


def test_spending_is_in_the_history_without_what_was_said(store: ScoreStore):
    assert rows(store, "select team, calls, failed, cost_usd from spend order by team") == [
        ("blue", 1, 1, 0.0),
        ("red", 1, 0, 0.25),
    ]
    assert "prompt" not in store.query("from gateway_requests")[0]


def test_calls_are_counted_once_when_their_file_is_published_later(tmp_path: Path):
    store = fill(tmp_path)
    store.publish()
    assert rows(store, "select count(*) from gateway_requests") == [(2,)], "a file that may grow is not published"
    with duckdb.connect(str(store.published), read_only=True) as published:
        assert published.execute("select count(*) from gateway_requests").fetchall() == [(0,)]
    for path in (tmp_path / "gateway" / "calls").rglob("*.parquet"):
        os.utime(path, (1, 1))
    store.publish()
    assert rows(store, "select count(*) from gateway_requests") == [(2,)]
    with duckdb.connect(str(store.published), read_only=True) as published:
        assert published.execute("select count(*) from spend").fetchall() == [(2,)]


def test_what_was_worked_out_at_publishing_is_worked_out_again_for_new_rows(tmp_path: Path):
    whole, stepwise = fill(tmp_path / "whole"), ScoreStore(tmp_path / "steps" / "scores")
    for path in sorted(whole.landing.root.rglob("*.parquet")):
        target = stepwise.landing.root / path.relative_to(whole.landing.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        stepwise.publish()
    for view in ("latest_scores", "latest_verdicts", "leaderboard", "score_history", "verdicts", "samples"):
        assert sorted(map(str, rows(stepwise, f"from {view}"))) == sorted(map(str, rows(whole, f"from {view}"))), view
    assert {
        commit for (commit,) in rows(stepwise, f"select commit_hash from latest_verdicts where repo_id = '{TINY}'")
    } == {NEW}
