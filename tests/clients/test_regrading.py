"""A hold that labels close: decided again from stored answers, as a row of its own, and nobody is asked."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.regrading import SAID, Regrading
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.incumbents import gather_arms
from modelops_dagster.clients.reopening import require_reopenable
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.gauntlet.grading import Grader, GradersFile
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.policies import Policy
from modelops_dagster.domain.verdicts import Verdict, judge
from tests.clients.calibrating import POLICY, RULE, SUITE, judging, label, run, run_again_labelled
from tests.clients.gauntlet_parts import endpoint
from tests.clients.grading_parts import by_number, grader
from tests.fakes.openai_server import OpenAIServer

OPEN = datetime.now(UTC) + timedelta(hours=24)
REPO = "org/model"


def decided(
    store: ScoreStore, report: SuiteReport, policy: dict[str, object] = POLICY, reopens: str | None = None
) -> Verdict:
    revision = report.endpoint.checkpoint.revision
    now, rules = datetime.now(UTC), Policy.model_validate(policy)
    arms, note = gather_arms(store, rules, [report], None, now)
    found = judge(
        rules, [report], repo_id=revision.repo_id, commit_hash=revision.commit_hash, lane="raw",
        endpoint=report.endpoint.name, decided_at=now, closes_at=OPEN, arms=arms, incumbent_note=note, reopens=reopens,
    )  # fmt: skip
    store.land_verdict(found, run_id=report.run_id)
    return found


def regraded(store: ScoreStore, g: Grader, report: SuiteReport, run_id: str = "r2") -> SuiteReport:
    file = GradersFile(graders=(g.spec,), admission=RULE)
    (again,) = Regrading(store, [SUITE], file, "raw", run_id).all([report])
    return again


def test_labels_reopen_a_hold_and_both_decisions_replay(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    with judging().server().in_thread() as judge_server:
        g = grader(judge_server)
        first = run(store, g, "r1", tmp_path)
        asked = len(judge_server.bodies)
        held = decided(store, first, {**POLICY, "criteria": [{**POLICY["criteria"][0], "min": 0.2}]})
        assert regraded(store, g, first) is first
        label(store, 1.0)
        again = regraded(store, g, first)
        assert len(judge_server.bodies) == asked
    assert (first.n_samples, held.outcome) == (0, "hold")
    assert (again.n_samples, again.n_unscored, again.run_id) == (60, 0, "r2")
    assert again.instrument != first.instrument
    assert again.notes[0] == SAID
    passed = decided(store, again, {**POLICY, "criteria": [{**POLICY["criteria"][0], "min": 0.2}]}, held.verdict_id)
    assert (passed.outcome, passed.reopens) == ("pass", held.verdict_id)
    for one in (held, passed):
        stored, recomputed, differing = replay(store, one.verdict_id)
        assert (recomputed.verdict_id, recomputed.outcome, differing) == (one.verdict_id, one.outcome, [])
        assert stored.reopens == one.reopens
    assert store.query("select count(*), sum(score) from samples where run_id = 'r2'")[1] == [(60, 30.0)]
    assert store.query("select count(*) from samples where run_id = 'r1' and score is not null")[1] == [(0,)]


def test_a_run_that_was_scored_by_an_admitted_grader_is_graded_as_it_was(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    with judging().server().in_thread() as judge_server:
        g = grader(judge_server)
        second = run_again_labelled(store, g, 0.8, tmp_path)
        assert regraded(store, g, second, "r3") is second
        label(store, 1.0)
        more = regraded(store, g, second, "r3")
    assert (more.run_id, more.instrument, more.n_samples) == ("r3", second.instrument, 60)
    assert more.metric("accuracy") == second.metric("accuracy")
    assert more.calibrations != second.calibrations


def test_the_incumbents_answers_are_graded_with_the_candidates(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    floor = {"suite": "writing", "metric": "accuracy", "min": 0.1, "when": "no_incumbent"}
    policy = {**POLICY, "criteria": [floor], "against_incumbent": [{"suite": "writing", "margin": 0.2}]}
    with (
        judging().server().in_thread() as judge_server,
        OpenAIServer(answer=by_number).in_thread() as ours,
        OpenAIServer(answer=lambda body: by_number(body) + ", as before").in_thread() as theirs,
    ):
        g = grader(judge_server)
        beside = Beside(endpoint(theirs, name="old", digest="sha256:9"), "raw")
        first = run_suite(
            SUITE, endpoint(ours), lane="raw", run_id="r1", work=tmp_path, land=store.land, panel=Panel((g,)),
            beside=beside,
        )  # fmt: skip
        held = decided(store, first, policy)
        label(store, 1.0)
        again = regraded(store, g, first)
    assert held.outcome == "hold"
    assert again.incumbent is not None and again.incumbent.run_id == "r2"
    now = decided(store, again, policy, held.verdict_id)
    (compared,) = now.comparisons
    assert (compared.n, now.outcome) == (60, "pass")
    assert replay(store, now.verdict_id)[2] == []


def test_only_an_open_hold_with_new_labels_is_reopened(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path / "scores")
    with pytest.raises(UserError, match="there is no decision"):
        require_reopenable(store, REPO, "raw")
    with judging().server().in_thread() as judge_server:
        first = run(store, grader(judge_server), "r1", tmp_path)
    held = decided(store, first)
    repo_id = held.repo_id
    with pytest.raises(UserError, match="Nobody has labelled anything since"):
        require_reopenable(store, repo_id, "raw")
    label(store, 0.1)
    assert require_reopenable(store, repo_id, "raw") == held
    with pytest.raises(UserError, match="is closed since"):
        require_reopenable(store, repo_id, "raw", OPEN)
