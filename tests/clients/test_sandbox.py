"""Code nobody trusts: it computes, and can do nothing else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.runner import ask_suite
from modelops_dagster.clients.gauntlet.sandbox import run_code
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import score_completion, scorer_params
from modelops_dagster.domain.gauntlet.scorers.code import CodeOrder, Execution, code_in
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from tests.clients.gauntlet_parts import endpoint
from tests.fakes.openai_server import OpenAIServer

CALLS = [{"args": [2, 3], "want": 5}, {"args": [-1, 1], "want": 0}]


def sample(**changes: Any) -> Sample:
    params = {"entry": "add", "calls": CALLS, **changes}
    meta = {"category": "code/small", "scorer": "unit_tests", "params": params, "max_tokens": 64}
    return Sample.model_validate(
        {"id": "c", "input": "Write add(a, b).", "target": "def add(a, b):\n    return a + b", "metadata": meta}
    )


def ran(code: str, *, calls: Any = ((1,),), seconds: float = 2) -> Execution:
    return run_code(CodeOrder(code=code, entry="f", calls=calls, seconds=seconds, memory_mb=512))


def scored(text: str, **changes: Any) -> tuple[str, float | None, str]:
    got = score_completion(sample(**changes), Completion(text=text, finish_reason="stop"), run_code)
    return got.outcome_class, got.score, got.explanation


@pytest.mark.parametrize(
    "text",
    [
        "def add(a, b):\n    return a + b",
        "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.",
        "```\nadd = lambda a, b: a + b\n```",
        "```python\nimport operator\ndef add(a, b):\n    return operator.add(a, b)\n```\n```python\nadd(1, 2)\n```",
    ],
)
def test_code_that_does_what_was_asked(text: str) -> None:
    assert scored(text)[:2] == ("correct", 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def add(a, b):\n    return a - b", "gave -1 instead of 5"),
        ("def plus(a, b):\n    return a + b", "KeyError"),
        ("def add(a, b:\n    return", "SyntaxError"),
        ("def add(a, b):\n    return a + b\nimport os\nos._exit(0)", "by itself"),
        ("def add(a, b):\n    while True: pass", "too long"),
        ("import socket\ndef add(a, b): return a + b", "ModuleNotFoundError"),
        ("def add(a, b):\n    return object()", "returned a object"),
        ("I would use a plus sign.", "SyntaxError"),
    ],
)
def test_code_that_does_not(text: str, said: str) -> None:
    outcome, score, explanation = scored(text, seconds=1)
    assert (outcome, score) == ("wrong", 0.0)
    assert said in explanation


@pytest.mark.parametrize(
    "body",
    [
        "return open('/etc/passwd').read()", "return open('x', 'w')", "import os; return os.listdir('/')",
        "import os; return os.fork()", "import os; os.execv('/bin/true', ['true'])", "import os; return os.kill(1, 0)",
        "import _socket; return _socket.socket()", "import os; os.unlink('/tmp/x')", "import subprocess",
        "return ''.join(['a'] * 10**9)", "return f(x)", "import ctypes; return ctypes.CDLL(None).socket(2, 1, 0)",
        "import _posixsubprocess", "import os; return os.open('/etc/hostname', 0)", "exit()",
    ],
)  # fmt: skip
def test_it_can_reach_nothing(body: str) -> None:
    (result,) = ran(f"def f(x):\n    {body}").results
    assert result == {"value": -1} if "ctypes" in body else set(result) == {"error"}, result


def test_it_sees_no_environment_and_cannot_know_what_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-1")
    assert ran("import os\ndef f(x): return sorted(k for k in os.environ if k != 'LC_CTYPE')").results == (
        {"value": []},
    )
    forged = 'import os\nos.write(1, b\'{"results": [{"value": 1}]}\')\nos._exit(0)\n'
    assert scored(forged + "def add(a, b): pass")[:2] == ("wrong", 0.0)


def test_results_are_json_with_sets_sorted() -> None:
    assert ran("def f(x): return {(3, 1), (2,)}, {'a': None}").results == ({"value": [[[2], [3, 1]], {"a": None}]},)
    assert "too long" in str(ran("def f(x): return 'a' * 300_000").results)


def test_where_code_cannot_be_isolated_it_is_unscored_and_never_run() -> None:
    refuse = lambda order: Execution(refused="there is no seccomp")  # noqa: E731
    got = score_completion(sample(), Completion(text="def add(a, b): return 5", finish_reason="stop"), refuse)
    assert (got.outcome_class, got.score) == ("unscored", None)
    assert "not run on this machine" in got.explanation
    alone = score_completion(sample(), Completion(text="def add(a, b): return 5", finish_reason="stop"))
    assert (alone.outcome_class, alone.score) == ("unscored", None)


def test_a_sample_nothing_can_pass_is_refused() -> None:
    for change, said in (("", "one solution"), ("def add(", "not Python"), ("def plus(): pass", "does not define")):
        with pytest.raises(ValueError, match=said):
            scorer_params(sample().model_copy(update={"target": change}))


def test_the_block_that_defines_the_function_is_taken() -> None:
    text = "First:\n```python\ndef g(): pass\n```\nthen\n```python\ndef f(): return 1\n```"
    assert code_in(text, "f") == "def f(): return 1"


def test_a_suite_with_code_is_asked_and_scored(tmp_path: Path) -> None:
    spec = SuiteSpec.model_validate({"name": "code", "kind": "dataset", "title": "C", "samples": "code.jsonl"})
    server = OpenAIServer(answer=lambda body: "```python\ndef add(a, b):\n    return a + b\n```")

    async def run() -> Any:
        async with server.running():
            suite = Suite(spec=spec, samples=(sample(),))
            return await ask_suite(suite, endpoint(server), lane="raw", run_id="r", work=tmp_path)

    report, rows = asyncio.run(run())
    assert (rows[0]["outcome_class"], rows[0]["score"], report.n_unscored) == ("correct", 1.0, 0)
