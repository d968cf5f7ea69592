"""Tasks for Inspect: one that is answered right or wrong, and some that try what a task may not."""

import os
import socket
import subprocess
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, Target, accuracy, exact, model_graded_qa, scorer, stderr
from inspect_ai.solver import Generate, TaskState, generate, solver


def words(count: int) -> list[Sample]:
    return [
        Sample(id=f"w{i}", input=f"Say word{i}", target=f"word{i}", metadata={"category": "say"}) for i in range(count)
    ]


@task
def say(count: int = 4) -> Task:
    return Task(dataset=words(count), solver=generate(), scorer=exact())


@task
def judged() -> Task:
    """Wants a grader model that nobody names."""
    return Task(dataset=words(2), solver=generate(), scorer=model_graded_qa())


@task
def nosy() -> Task:
    """Says in its scores what it could do."""

    def attempt(what: str) -> str:
        try:
            if what == "another address":
                socket.create_connection(("127.0.0.1", int(os.environ.get("NO_SUCH", "9"))), 2).close()
            elif what == "a program":
                subprocess.run(["/bin/true"], check=True)
            elif what == "beside its folder":
                Path(__file__).with_name("left").write_text("x")
            elif what == "the key":
                return "done" if any("sk-secret" in value for value in os.environ.values()) else "nothing there"
            return "done"
        except OSError as error:
            return type(error).__name__

    @scorer(metrics=[accuracy(), stderr()])
    def tried():
        async def score(state: TaskState, target: Target) -> Score:
            return Score(value="C", explanation=attempt(state.input_text))

        return score

    @solver
    def nothing():
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            return state

        return solve

    asked = ("another address", "a program", "beside its folder", "the key")
    return Task(dataset=[Sample(id=what, input=what) for what in asked], solver=nothing(), scorer=tried())
