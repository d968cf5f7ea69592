"""A suite, a grader and a person who knows: what it takes to admit a grader, run by run."""

from datetime import UTC, datetime
from pathlib import Path

from modelops_dagster.clients.calibrations import calibrations
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.labels import Graded, answers_to_label, land_labels, said_by, tasks_of, verdicts
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.gauntlet.grading import Admission, Grader
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.labels import Task, drawn
from modelops_dagster.domain.policies import Policy
from modelops_dagster.domain.verdicts import Verdict, judge
from tests.clients.gauntlet_parts import endpoint
from tests.clients.grading_parts import by_number, written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer

SUITE = written(60, categories=("summary",))
RULE = Admission(labels=40, kappa=0.5, skill=0.5)
POLICY = {
    "name": "p", "version": 1, "description": "One floor.",
    "criteria": [{"suite": "writing", "metric": "corrected/summary", "min": 0.4, "bound": "ci_low"}],
}  # fmt: skip


def judging() -> GraderModel:
    """Right but for two answers: it passes text 1 and fails text 2."""
    return GraderModel(lambda answer: ("good" in answer or answer == "bad text 1") and answer != "good text 2")


def run(store: ScoreStore, g: Grader, run_id: str, work: Path, suite: Suite = SUITE, answer=by_number) -> SuiteReport:
    with OpenAIServer(answer=answer).in_thread() as server:
        panel = Panel((g,), calibrations(store, Graded([SUITE]), RULE))
        return run_suite(suite, endpoint(server), lane="raw", run_id=run_id, work=work, land=store.land, panel=panel)


def label(store: ScoreStore, share: float, run_id: str = "r1") -> list[Task]:
    """A person who knows labels the first of what is shown."""
    graded = Graded([SUITE])
    tasks = drawn(tasks_of(answers_to_label(store, graded, verdicts(store), run_id=run_id)))
    chosen = tasks[: round(share * len(tasks))]
    said = [(said_by(t, "pass" if "good" in t.answer.text else "fail", "ana", seconds=20.0), t.answer) for t in chosen]
    land_labels(store, said, "page")
    return chosen


def run_again_labelled(store: ScoreStore, g: Grader, share: float, work: Path) -> SuiteReport:
    """The second of two runs: between them a person labelled that share of what the first one's model had answered."""
    run(store, g, "r1", work)
    label(store, share)
    return run(store, g, "r2", work)


def decided(store: ScoreStore, report: SuiteReport, policy: dict[str, object] = POLICY) -> Verdict:
    """The verdict on a run, stored."""
    revision = report.endpoint.checkpoint.revision
    found = judge(
        Policy.model_validate(policy), [report], repo_id=revision.repo_id, commit_hash=revision.commit_hash, lane="raw",
        endpoint=report.endpoint.name, decided_at=datetime.now(UTC),
    )  # fmt: skip
    store.land_verdict(found, run_id=report.run_id)
    return found
