"""A lane with a suite that only graders can judge, under a real Dagster instance."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from modelops_dagster.clients.labels import Graded, answers_to_label, land_labels, said_by, tasks_of, verdicts
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.clients.scores.replays import replay
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.lanes import DECIDE_AGAIN
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.domain.watchlist import POLICY_TAG
from tests.assets import graded_lane
from tests.assets.graded_lane import grading
from tests.clients.gauntlet_parts import echo, endpoint, quality
from tests.clients.grading_parts import by_number, written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import MODEL, OpenAIServer, last_user

POLICY = {
    "name": "default", "version": 1, "description": "One floor.",
    "criteria": [{"suite": "quality", "metric": "accuracy", "min": 0.1}],
}  # fmt: skip
SUITES = (quality(4), written(4))


def evaluate(
    server: OpenAIServer,
    home: Path,
    policy: dict[str, object],
    suites: Sequence[Suite] = SUITES,
    selection: str | Sequence[dg.AssetKey] = "*",
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """The lane of an endpoint at the server."""
    return graded_lane.evaluate(endpoint(server), home, policy, suites, selection, tags)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    return tmp_path


def test_the_candidate_sits_out_as_a_grader_and_the_other_one_advises(home: Path):
    with OpenAIServer(answer=echo).in_thread() as server, GraderModel().server().in_thread() as judge:
        lines = [
            {"name": "itself", "url": server.url, "model": MODEL},
            {"name": "other", "url": judge.url, "model": "judge"},
        ]
        (home / "graders.yaml").write_text(json.dumps({"graders": lines}))
        result = evaluate(server, home, POLICY)
    assert "The grader itself sat out, because it is the model fake itself." in grading(result)
    assert "advisory" in grading(result)
    verdict = result.output_for_node("raw__verdict")
    assert {e.suite: e.n_samples for e in verdict.evidence} == {"quality": 4, "writing": 0}
    counts = ScoreStore(home / "scores").query("select count(*), count(distinct grader) from judgements")[1]
    assert counts == [(8, 1)]


def test_without_graders_it_is_not_asked_unless_the_policy_names_it(home: Path):
    with OpenAIServer(answer=echo).in_thread() as server:
        result = evaluate(server, home, POLICY)
        assert "Not asked" in grading(result)
        assert len(server.bodies) == 4
        verdict = result.output_for_node("raw__verdict")
        assert [e.suite for e in verdict.evidence] == ["quality"]
        naming = POLICY | {"criteria": [*POLICY["criteria"], {"suite": "writing", "metric": "accuracy", "min": 0.1}]}
        held = evaluate(server, home, naming).output_for_node("raw__verdict")
    assert held.outcome == "hold"
    assert "suite writing has nothing that counts" in held.reason


@dataclass(frozen=True)
class Held:
    """A lane that waits for people: 24 texts, a grader that nobody compared with anybody, and the hold."""

    home: Path
    server: OpenAIServer
    policy: dict[str, object]
    suites: tuple[Suite, ...]
    hold: Verdict

    @property
    def store(self) -> ScoreStore:
        return ScoreStore(self.home / "scores")

    def label(self, count: int = 24) -> None:
        """A person who knows judges the first of the texts."""
        tasks = tasks_of(answers_to_label(self.store, Graded(self.suites), verdicts(self.store)))[:count]
        land_labels(self.store, [(said_by(t, knows(t.answer.text), "ana"), t.answer) for t in tasks], "page")

    def decide_again(self, tags: Mapping[str, str] = DECIDE_AGAIN) -> dg.ExecuteInProcessResult:
        """The verdict alone, as the job of the lane does it."""
        alone = [dg.AssetKey(["raw", "verdict"])]
        return evaluate(self.server, self.home, self.policy, self.suites, alone, tags)


@pytest.fixture
def held(home: Path) -> Iterator[Held]:
    suites = (quality(4), written(24, categories=("summary",)))
    policy = POLICY | {"criteria": [{"suite": "writing", "metric": "accuracy", "min": 0.4}]}
    with OpenAIServer(answer=by_number_or_echo).in_thread() as server, GraderModel().server().in_thread() as judge:
        line = {"name": "strict", "url": judge.url, "model": "judge"}
        admission = {"labels": 20, "kappa": 0.5, "skill": 0.5}
        (home / "graders.yaml").write_text(json.dumps({"graders": [line], "admission": admission}))
        hold = evaluate(server, home, policy, suites).output_for_node("raw__verdict")
        assert (hold.outcome, hold.reopens) == ("hold", None)
        asked = len(server.bodies), len(judge.bodies)
        yield Held(home, server, policy, suites, hold)
        assert (len(server.bodies), len(judge.bodies)) == asked, "somebody was asked again"


@pytest.mark.parametrize("tags", [DECIDE_AGAIN, {}])
def test_labels_let_the_verdict_alone_be_decided_again(held: Held, tags: dict[str, str]):
    held.label()
    again = held.decide_again(tags).output_for_node("raw__verdict")
    assert (again.outcome, again.reopens) == ("pass", held.hold.verdict_id)
    assert [replay(held.store, one.verdict_id)[2] for one in (held.hold, again)] == [[], []]


def test_labels_that_change_nothing_leave_the_hold_as_it_is(held: Held):
    held.label(3)
    again = held.decide_again().output_for_node("raw__verdict")
    assert again == held.hold
    assert held.store.counts()["verdicts"] == 1


def test_a_model_that_passed_is_not_decided_about_again_from_its_first_answers(held: Held):
    held.label()
    assert held.decide_again().output_for_node("raw__verdict").outcome == "pass"
    (failed,) = held.decide_again().filter_events(lambda e: e.is_step_failure)
    assert (
        "is not held in the lane raw: the last decision is pass"
        in failed.step_failure_data.user_failure_data.description
    )
    assert held.store.latest_verdicts()[0].outcome == "pass"


def test_a_run_that_was_killed_after_its_decision_decides_it_again(held: Held):
    held.label()
    first = held.decide_again()
    retry = {**DECIDE_AGAIN, "dagster/parent_run_id": first.run_id, "dagster/root_run_id": first.run_id}
    again = held.decide_again(retry).output_for_node("raw__verdict")
    assert (again.outcome, again.reopens) == ("pass", held.hold.verdict_id)


def test_a_hold_is_decided_about_by_the_policy_that_it_was_made_by(held: Held):
    (held.home / "policies" / "own.yaml").write_text(yaml.safe_dump(held.policy | {"name": "own"}))
    alone = [dg.AssetKey(["raw", "verdict"])]
    own = evaluate(held.server, held.home, held.policy, held.suites, alone, {POLICY_TAG: "own"})
    assert own.output_for_node("raw__verdict").policy == "own"
    held.label()
    assert held.decide_again().output_for_node("raw__verdict").policy == "own"


def by_number_or_echo(body: Mapping[str, Any]) -> str:
    """Texts for the suite that graders judge, and the right word for the other."""
    return by_number(body) if last_user(body).startswith("Write text") else echo(body)


def knows(text: str) -> str:
    return "pass" if "good" in text else "fail"
