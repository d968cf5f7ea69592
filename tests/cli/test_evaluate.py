"""`modelops eval` as a person types it, against a fake endpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import main
from modelops_dagster.domain.errors import ModelOpsError, UserError
from tests.clients.gauntlet_parts import echo
from tests.fakes.openai_server import MODEL, OpenAIServer

SAMPLE = {"input": "Say yes", "target": "yes", "metadata": {"category": "a", "scorer": "includes"}}
SUITE = "name: mine\nkind: dataset\ntitle: Mine\nsamples: mine.jsonl\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mine.yaml").write_text(SUITE)
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps({"id": f"s{i}", **SAMPLE}) for i in range(9)))
    (tmp_path / "contract.yaml").write_text("name: contract\nkind: contract\ntitle: C\ncontract: {}\n")
    return {"MODELOPS_EVAL_DATASETS": str(tmp_path), "MODELOPS_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}


def run(environ: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main.cli, ["eval", *arguments], env=environ)


def refused(result: Result) -> str:
    assert isinstance(result.exception, UserError)
    return result.exception.sentence


@pytest.mark.parametrize("path", ["", "/v1", "/v1/chat/completions"])
def test_a_table_and_json(path: str, environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo).in_thread() as server:
        url = server.url.removesuffix("/v1") + path
        shown = run(environ, "--url", url, "--model-id", MODEL, "--suite", "mine")
        asked = len(server.bodies)
        result = run(environ, "--url", url, "--model-id", MODEL, "--suite", "mine", "--limit", "4", "--json")
    assert shown.exit_code == 0, shown.output
    assert "accuracy" in shown.stdout
    assert asked == 1 + 9
    out: Any = json.loads(result.stdout)
    (report,) = out["reports"]
    assert report["n_samples"] == 4
    assert {m["name"]: m["value"] for m in report["metrics"]}["accuracy"] == 1.0


def test_a_failing_check_exits_1_and_names_the_fault(environ: dict[str, str]) -> None:
    with OpenAIServer(answer=lambda body: "Fine.</s>").in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "contract")
    assert result.exit_code == 1 or result.return_value == 1
    assert "no_template_leak" in result.stdout
    assert "special tokens are not stripped" in result.stdout


def test_the_key_comes_from_the_environment(environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo, api_key="sk-1").in_thread() as server:
        arguments = ("--url", server.url, "--model-id", MODEL, "--suite", "mine")
        assert "name the variable that holds it" in refused(run(environ, *arguments))
        assert "UNSET_KEY is not set" in refused(run(environ, *arguments, "--api-key-env", "UNSET_KEY"))
        result = run({**environ, "MY_KEY": "sk-1"}, *arguments, "--api-key-env", "MY_KEY")
    assert result.exit_code == 0
    assert "sk-1" not in result.output


def test_mistakes_are_one_sentence(environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo).in_thread() as server:
        wrong = refused(run(environ, "--url", server.url, "--model-id", "gpt-99"))
        assert "has no model 'gpt-99': use one of fake" in wrong
        assert "There is no suite 'nope'" in refused(
            run(environ, "--url", "http://x", "--model-id", "m", "--suite", "nope")
        )
    assert "cannot be reached" in refused(run(environ, "--url", "http://127.0.0.1:9/v1", "--model-id", "m"))
    assert "is not a URL" in refused(run(environ, "--url", "localhost:8000", "--model-id", "m"))
    with OpenAIServer(fault="html").in_thread() as server:
        assert "is not an OpenAI-compatible" in refused(run(environ, "--url", server.url, "--model-id", MODEL))


def test_an_endpoint_that_dies_is_a_failure_and_not_a_report(environ: dict[str, str]) -> None:
    calls = {"n": 0}

    def once(body: Any) -> str:
        calls["n"] += 1
        if calls["n"] > 1:
            raise RuntimeError("engine died")
        return "yes"

    with OpenAIServer(answer=once).in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--json")
    assert not isinstance(result.exception, ModelOpsError)
    assert result.exit_code == 1 or result.return_value == 1
    assert "could not be scored" in result.output
