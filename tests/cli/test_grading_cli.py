"""`modelops eval` with graders: who may judge, what is left out, and how it is shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import main
from modelops_dagster.domain.errors import InvalidSpec, UserError
from tests.clients.grading_parts import RUBRIC
from tests.fakes.grader_model import GraderModel
from tests.fakes.openai_server import MODEL, OpenAIServer

SUITE = "name: writing\nkind: dataset\ntitle: Writing\nsamples: writing.jsonl\nrubrics: " + json.dumps({"text": RUBRIC})
SAMPLE = {
    "input": "Write well.",
    "metadata": {"category": "summary", "scorer": "rubric", "params": {"rubric": "text"}},
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "writing.yaml").write_text(SUITE)
    (tmp_path / "writing.jsonl").write_text("\n".join(json.dumps({"id": f"w{i}", **SAMPLE}) for i in range(4)))
    (tmp_path / "contract.yaml").write_text("name: contract\nkind: contract\ntitle: C\ncontract: {}\n")
    return {"MODELOPS_EVAL_DATASETS": str(tmp_path), "MODELOPS_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


def run(environ: dict[str, str], server: OpenAIServer, *arguments: str) -> Result:
    given = ["eval", "--url", server.url, "--model-id", MODEL, *arguments]
    return CliRunner().invoke(main.cli, given, env=environ)


def graders(environ: dict[str, str], *lines: str) -> None:
    Path(environ["MODELOPS_HOME"], "graders.yaml").write_text("graders:\n" + "\n".join(f"  - {{{x}}}" for x in lines))


def test_graders_are_asked_and_their_advice_is_shown(environ: dict[str, str]):
    with (
        OpenAIServer(answer=lambda body: "a good text").in_thread() as server,
        GraderModel().server().in_thread() as judge,
    ):
        graders(environ, f'name: strict, url: "{judge.url}", model: judge')
        shown = run(environ, server, "--suite", "writing")
        out: Any = json.loads(run(environ, server, "--suite", "writing", "--json").stdout)
    assert shown.exit_code == 0, shown.output
    assert "advisory" in shown.stdout and "4 answers of summary count nowhere" in shown.stdout
    (report,) = out["reports"]
    (line,) = report["graders"]
    assert (line["passed"], line["flip_rate"], line["counts"], report["n_samples"]) == (1.0, 0.0, False, 0)


@pytest.mark.parametrize("way", ["its URL", "its name"])
def test_the_model_under_test_is_refused_as_its_own_grader(way: str, environ: dict[str, str]):
    with OpenAIServer().in_thread() as server:
        url = server.url if way == "its URL" else "http://127.0.0.1:1/v1"
        graders(environ, f'name: strict, url: "{url}", model: {MODEL}')
        result = run(environ, server, "--suite", "writing")
        asked = len(server.bodies)
    assert isinstance(result.exception, UserError)
    assert "may not judge" in result.exception.sentence
    assert asked == 1


def test_a_grader_that_is_not_there_leaves_the_suite_without_a_verdict(environ: dict[str, str]):
    with OpenAIServer(answer=lambda body: "a good text").in_thread() as server:
        with GraderModel().server().in_thread() as judge:
            url = judge.url
        graders(environ, f'name: strict, url: "{url}", model: judge')
        result = run(environ, server, "--suite", "writing", "--json")
    assert result.exit_code == 1, result.output
    (told,) = json.loads(result.stdout)["failures"]
    assert told.startswith("Suite 'writing' has no verdict: 4 answers of summary count nowhere")
    assert "gave no verdict on any of 4 answers of summary (first: " in told and "Cannot connect" in told


def test_without_graders_the_suite_is_left_out_or_refused_by_name(environ: dict[str, str]):
    with OpenAIServer().in_thread() as server:
        all_suites = run(environ, server, "--json")
        named = run(environ, server, "--suite", "writing")
    assert "it is left out" in all_suites.stderr
    assert [r["suite"] for r in json.loads(all_suites.stdout)["reports"]] == ["contract"]
    assert isinstance(named.exception, UserError) and "graders.yaml" in named.exception.sentence


def test_a_grader_that_cannot_be_asked_is_one_sentence(environ: dict[str, str]):
    graders(environ, "name: strict, endpoint: nowhere")
    with OpenAIServer().in_thread() as server:
        result = run(environ, server, "--suite", "writing")
    assert isinstance(result.exception, UserError) and not server.bodies


def test_a_sample_that_names_an_unknown_rubric_is_refused(environ: dict[str, str]):
    suite = Path(environ["MODELOPS_EVAL_DATASETS"], "writing.yaml")
    suite.write_text(SUITE.replace('"text"', '"other"'))
    with OpenAIServer().in_thread() as server:
        result = run(environ, server, "--suite", "writing")
    assert isinstance(result.exception, InvalidSpec)
    assert "'w0' names the rubric 'text'; the suite has other" in result.exception.sentence
