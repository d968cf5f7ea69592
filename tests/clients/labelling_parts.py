"""A score store with answers to label: a candidate beside an incumbent, judged by two graders."""

import json
from dataclasses import dataclass
from pathlib import Path

from modelops_dagster.clients.gauntlet.beside import Beside
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.runner import run_suite
from modelops_dagster.clients.labels import Graded, answers_to_label, tasks_of, verdicts
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.labels import Answer, Task, drawn
from tests.clients.gauntlet_parts import endpoint
from tests.clients.grading_parts import by_number, grader, number_in, written
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import OpenAIServer


@dataclass
class Scene:
    store: ScoreStore
    suite: Suite

    @property
    def graded(self) -> Graded:
        return Graded([self.suite])

    def write_suite(self, folder: Path) -> Path:
        """The suite as files, as the command line reads it."""
        folder.mkdir(exist_ok=True)
        spec, samples = self.suite.spec.model_dump(mode="json", exclude_defaults=True), self.suite.samples
        (folder / "writing.yaml").write_text(json.dumps(spec))
        (folder / "writing.jsonl").write_text("\n".join(s.model_dump_json() for s in samples))
        return folder

    def answers(self) -> list[Answer]:
        return answers_to_label(self.store, self.graded, verdicts(self.store))

    def tasks(self, *, pairs: bool = False) -> list[Task]:
        return drawn(tasks_of(self.answers(), pairs=pairs))


def judged(tmp_path: Path, count: int = 12) -> Scene:
    """Even texts of the candidate are good; all of the incumbent's are. The second grader also likes text 1, and the
    first one wavers over text 3."""
    scene = Scene(ScoreStore(tmp_path / "scores"), written(count))
    strict = GraderModel(waver=lambda answer: answer == "bad text 3")
    kind = GraderModel(lambda answer: "good" in answer or answer == "bad text 1")
    with (
        OpenAIServer(answer=by_number).in_thread() as ours,
        OpenAIServer(answer=lambda body: f"good old text {number_in(body)}").in_thread() as theirs,
        strict.server().in_thread() as one,
        kind.server().in_thread() as two,
    ):
        run_suite(
            scene.suite,
            endpoint(ours),
            lane="raw",
            run_id="r1",
            work=tmp_path,
            land=scene.store.land,
            beside=Beside(endpoint(theirs, name="old", digest="sha256:2"), "raw"),
            panel=Panel((grader(one), grader(two, "kind"))),
        )
    return scene
