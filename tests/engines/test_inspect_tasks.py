"""Tasks of Inspect, run by Inspect itself against a fake endpoint: what is scored, and what a task may not do."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import main
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.gauntlet.inspect_engine import InspectEngine, InspectOrder, InspectRun, named_task
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import EvaluationFailed, UserError
from modelops_dagster.domain.gauntlet.imported import ImportedTask
from tests.fakes.openai_server import MODEL, OpenAIServer, last_user

pytestmark = pytest.mark.engine
TASKS = Path(__file__).parents[1] / "fakes" / "inspect_tasks.py"

A_TASK = """
from inspect_ai import Task, task

@task
def say():
    return Task()
"""

TWO_TASKS = """
import os
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

def only() -> Task:
    return Task([Sample(os.environ.get("TASK_SECRET", "no secret"), target="x")], solver=generate(), scorer=exact())

@task
def first():
    return only()

@task
def second():
    return only()
"""


def says(body: Any) -> str:
    """Right about every word but the last digit 3."""
    words = re.findall(r"word\d+", last_user(body))
    return words[-1] if words and words[-1] != "word3" else "nothing"


@pytest.fixture(scope="module", autouse=True)
def installed(registry: EngineRegistry) -> None:
    registry.install("inspect", print)


def ran(registry: EngineRegistry, work: Path, server: OpenAIServer, task: str | None, **changes: Any) -> InspectRun:
    known = {"file": TASKS, "task": task, "url": server.url, "model": MODEL, "seconds": 120}
    return InspectEngine(registry, work).run(InspectOrder.model_validate(known | changes), "sk-secret", print)


def only(run: InspectRun) -> ImportedTask:
    (found,) = run.found
    return found.task


def values(task: ImportedTask) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in task.metrics}


def test_a_task_is_scored_as_inspect_scores_it(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret").in_thread() as server:
        run = ran(registry, tmp_path, server, "say", arguments={"count": 5})
        again = ran(registry, tmp_path, server, "say", samples=2)
    task = only(run)
    assert (task.suite, task.version, task.n_samples, task.n_unscored) == ("inspect:say", "0.3.285", 5, 0)
    assert values(task) == {"exact": 0.8, "scored_share": 1.0, "exact/mean": 0.8}
    assert {a.sample_id: (a.said, a.score, a.category) for a in task.answers}["w3"] == ("nothing", 0.0, "say")
    assert run.tokens > 0
    assert run.fences[0] == "audit hook"
    other = only(again)
    assert other.n_samples == 2
    assert (other.questions, other.configuration) != (task.questions, task.configuration)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"sk-secret" in p.read_bytes()]


def test_a_task_reaches_nothing_else_and_starts_nothing(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(api_key="sk-secret").in_thread() as server:
        task = only(ran(registry, tmp_path, server, "nosy"))
    said = {a.sample_id: json.loads(a.explanation)["tried"][1] for a in task.answers}
    assert said == {
        "another address": "PermissionError",
        "a program": "PermissionError",
        "beside its folder": "PermissionError",
        "the key": "nothing there",
    }
    assert not TASKS.with_name("left").exists()


def test_no_model_judges_itself(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret").in_thread() as server:
        task = only(ran(registry, tmp_path, server, "judged"))
        assert len(server.bodies) == 2
    assert [a.score for a in task.answers] == [None, None]
    assert "a model does not judge itself" in task.answers[0].explanation
    assert values(task)["scored_share"] == 0


def test_a_hanging_endpoint_ends_in_the_budget_without_a_score(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret", fault="hang", well_first=2).in_thread() as server:
        run = ran(registry, tmp_path, server, "say", arguments={"count": 12}, seconds=20, concurrency=2)
    task = only(run)
    assert run.ended_early
    assert task.n_samples == 12
    assert sum(a.score is not None for a in task.answers) == 2
    assert task.n_unscored == 10
    assert values(task)["exact"] == 1.0


def test_a_dead_endpoint_is_given_up(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(api_key="sk-secret", fault="unauthorized").in_thread() as server:
        run = ran(registry, tmp_path, server, "say", arguments={"count": 40}, concurrency=1, give_up_after=3)
        assert len(server.bodies) <= 5
    assert run.ended_early["inspect:say"] == "3 samples in a row failed"
    assert {a.score for a in only(run).answers} == {None}


def test_no_request_is_begun_beyond_the_tokens(registry: EngineRegistry, tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret").in_thread() as server:
        run = ran(registry, tmp_path, server, "say", arguments={"count": 20}, tokens=30, concurrency=1)
        assert len(server.bodies) < 8
    assert 30 <= run.tokens < 45
    lost = [a for a in only(run).answers if a.score is None]
    assert len(lost) == 20 - len(server.bodies)
    assert lost[0].explanation == "ended by its custom limit of 30"


def test_every_task_of_a_file_is_run_and_no_env_file_is_read(registry: EngineRegistry, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("TASK_SECRET=sk-of-somebody\n")
    file = tmp_path / "two.py"
    file.write_text(TWO_TASKS)
    with OpenAIServer(api_key="sk-secret").in_thread() as server:
        run = ran(registry, tmp_path / "work", server, None, file=file)
    tasks = [one.task for one in run.found]
    assert sorted(task.suite for task in tasks) == ["inspect:first", "inspect:second"]
    assert [answer.asked for task in tasks for answer in task.answers] == ["no secret", "no secret"]


def test_a_file_that_does_not_load_is_the_users_to_mend(registry: EngineRegistry, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(f"import no_such_module\n{A_TASK}")
    with OpenAIServer().in_thread() as server:
        with pytest.raises(UserError, match="no_such_module"):
            ran(registry, tmp_path / "work", server, "say", file=broken)
        with pytest.raises(UserError):
            ran(registry, tmp_path / "work", server, "no_such_task")
        with pytest.raises(UserError, match=r"there is no argument 'cuont'; it takes count"):
            ran(registry, tmp_path / "work", server, "say", arguments={"cuont": 2})
        assert not server.bodies


def test_a_file_that_is_no_python_is_told_by_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ndef (:\n")
    with pytest.raises(UserError, match=r"broken\.py:2 cannot be read as Python \(invalid syntax\): correct it"):
        named_task(f"{broken}@say")
    broken.write_bytes(b"x = 1\0")
    with pytest.raises(UserError, match="cannot be read as Python"):
        named_task(str(broken))


def test_a_task_that_eats_memory_is_ended(registry: EngineRegistry, tmp_path: Path) -> None:
    greedy = tmp_path / "greedy.py"
    greedy.write_text(f"kept = [bytearray(2**26) for _ in range(100)]\n{A_TASK}")
    with OpenAIServer().in_thread() as server, pytest.raises(EvaluationFailed, match=r"[Mm]emory"):
        ran(registry, tmp_path / "work", server, "say", file=greedy, memory_bytes=2**30)


def evaluated(home: Path, *arguments: str) -> Result:
    environ = {"MODELOPS_HOME": str(home), "MY_KEY": "sk-secret"}
    return CliRunner().invoke(main.cli, ["eval", "--inspect", *arguments], env=environ)


def test_the_command_shows_and_lands_what_was_scored(tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret").in_thread() as server:
        whom = ("--url", server.url, "--model-id", MODEL, "--api-key-env", "MY_KEY")
        result = evaluated(tmp_path, f"{TASKS}@say", *whom, "--repo-id", "org/model", "--json")
        shown = evaluated(tmp_path, f"{TASKS}@say", *whom, "-T", "count=2")
    assert result.exit_code == 0, result.output
    (task,) = json.loads(result.stdout)["tasks"]
    assert (task["suite"], task["n_samples"], task["n_unscored"]) == ("inspect:say", 4, 0)
    assert "sk-secret" not in result.output
    store = ScoreStore(tmp_path / "scores")
    assert store.query("select suite, metric, value, instrument from scores where metric = 'exact'")[1] == [
        ("inspect:say", "exact", 0.75, task["instrument"])
    ]
    assert store.query("select count(*), sum(score) from samples")[1] == [(4, 3.0)]
    assert shown.exit_code == 0, shown.output
    assert "inspect:say: 2 asked, 0 unscored" in shown.stdout


def test_a_key_that_is_revoked_midway_is_for_the_user(tmp_path: Path) -> None:
    with OpenAIServer(answer=says, api_key="sk-secret", fault="unauthorized", well_first=1 + 2).in_thread() as server:
        whom = ("--url", server.url, "--model-id", MODEL, "--api-key-env", "MY_KEY")
        result = evaluated(tmp_path, f"{TASKS}@say", *whom, "--json")
    assert isinstance(result.exception, UserError)
    assert "refuses the key that the variable MY_KEY holds (401" in result.exception.sentence
    (task,) = json.loads(result.stdout)["tasks"]
    assert task["n_unscored"] == 2
