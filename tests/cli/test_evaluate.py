"""`modelops eval` as a person types it, against a fake endpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import main
from modelops_dagster.domain.errors import ModelOpsError, UserError
from tests.clients.gauntlet_parts import echo
from tests.fakes.openai_server import MODEL, Fault, OpenAIServer
from tests.fakes.stack import wait_until

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


@pytest.mark.parametrize("path", ["", "/v1", "/v1/chat/completions", "/v1/completions"])
def test_a_table_and_json(path: str, environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo).in_thread() as server:
        url = server.url.removesuffix("/v1") + path
        shown = run(environ, "--url", url, "--model-id", MODEL, "--suite", "mine")
        asked = len(server.bodies)
        result = run(environ, "--url", url, "--model-id", MODEL, "--suite", "mine", "--limit", "4", "--json")
    assert shown.exit_code == 0, shown.output
    assert "accuracy" in shown.stdout
    assert asked == 1 + 9
    assert all(("prompt" in body) == (path == "/v1/completions") for body in server.bodies)
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
        assert "wants a key, and none was sent" in refused(run(environ, *arguments))
        wrong = refused(run({**environ, "MY_KEY": "sk-2"}, *arguments, "--api-key-env", "MY_KEY"))
        assert "refuses the key that the variable MY_KEY holds" in wrong and "sk-2" not in wrong
        assert "UNSET_KEY is not set" in refused(run(environ, *arguments, "--api-key-env", "UNSET_KEY"))
        for key in ("sk-1\n", " sk-1", "sk\n1"):
            said = refused(run({**environ, "MY_KEY": key}, *arguments, "--api-key-env", "MY_KEY"))
            assert said == "The variable MY_KEY holds blanks or a line break beside the key: put the key alone there."
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
        assert "There is no subset 'nope' in contract, mine; there are: none." in refused(
            run(environ, "--url", server.url, "--model-id", MODEL, "--subset", "nope")
        )
    gone = refused(run(environ, "--url", "http://127.0.0.1:9/v1", "--model-id", "m"))
    assert "cannot be reached (Connect" in gone and "check the address" in gone and "ssl" not in gone
    for no_url in ("localhost:8000", "http://[::1/v1", "http://h:99999/v1"):
        assert "is not a URL" in refused(run(environ, "--url", no_url, "--model-id", "m"))
    held = refused(run(environ, "--url", "http://me:pw1@127.0.0.1:9/v1", "--model-id", "m"))
    assert "The address of '127.0.0.1:9' holds a user name or password" in held and "pw1" not in held
    for flags in (("-T", "a=b"), ("--tokens", "9"), ("--memory", "1"), ("--repo-id", "a/b"), ("--commit", "0" * 40)):
        said = refused(run(environ, "--url", "http://127.0.0.1:9/v1", "--model-id", "m", *flags))
        assert said == (
            f"{flags[0]} belongs to a task of Inspect: name its file with --inspect, or leave {flags[0]} out."
        )
    alone = ("--inspect", "x.py", "--commit", "0" * 40)
    assert "name the model with --repo-id" in refused(run(environ, "--url", "http://h", "--model-id", "m", *alone))
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


FILE = """
deployment: {type: none}
target:
  api_endpoint:
    url: http://your-endpoint:8080/v1/completions
    model_id: your-model-name
    api_key: ${OPTIONAL_KEY}
    adapter_config:
      use_caching: true
      caching_dir: CACHE
      use_request_logging: true
      max_logged_requests: 2
      output_dir: CACHE
      use_reasoning: true
      start_reasoning_token: "<think>"
      end_reasoning_token: "</think>"
evaluation:
  tasks:
    - name: mmlu_pro
    - name: mine
"""


def test_a_file_runs_as_it_stands(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE + "stands_in_for: [mmlu_pro]\n")
    file = tmp_path / "files" / "bring_your_own.yaml"
    file.parent.mkdir()
    file.write_text(FILE.replace("CACHE", str(tmp_path / "kept")))
    assert "http://your-endpoint:8080/v1 cannot be reached" in refused(run(environ, "--config", str(file)))
    with OpenAIServer(answer=lambda body: f"<think>hm</think> {echo(body)}").in_thread() as server:
        there = (
            "-o", f"target.api_endpoint.url={server.url}/completions", "-o", f"target.api_endpoint.model_id={MODEL}",
        )  # fmt: skip
        result = run(environ, "--config", str(file), *there, "--json")
        assert result.exit_code == 0, result.output
        asked = len(server.bodies)
        again = run(environ, "--config", str(file), *there, "--json")
        assert (asked, len(server.bodies)) == (1 + 9, asked + 1)
    assert {b["max_tokens"] for b in server.bodies} == {1, 1024}, "room to reason, within the context"
    out: Any = json.loads(result.stdout)
    assert [i["name"] for i in out["chain"]][:2] == ["request_logging", "caching"]
    (report,) = out["reports"]
    assert {m["name"]: m["value"] for m in report["metrics"]}["accuracy"] == 1.0
    assert report["adapter"]["reasoning"]["finished"] == 9
    assert json.loads(again.stdout)["reports"][0]["adapter"]["cache_hits"] == 9
    assert out["stands_in_for"] == {"mine": "mmlu_pro"}
    assert "public benchmarks are not shipped; the suite 'mine' is asked instead" in result.stderr
    assert "OPTIONAL_KEY is not set" in result.stderr
    kept = {p.name for p in (tmp_path / "kept").iterdir() if p.is_file()}
    assert {"mine-requests.jsonl", "mine-report.html", "mine-report.json"} <= kept


def test_a_file_that_does_not_hold_is_one_sentence(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "files" / "f.yaml"
    file.parent.mkdir()
    assert "does not exist" in refused(run(environ, "--config", str(file)))
    file.write_text("a: [")
    assert "is not YAML" in refused(run(environ, "--config", str(file)))
    file.write_text(FILE.replace("use_caching", "use_cashing"))
    assert "use_cashing: there is no such flag" in refused(run(environ, "--config", str(file)))
    file.write_text(FILE.replace("mmlu_pro", "chess"))
    assert "There is no suite 'chess'" in refused(run(environ, "--config", str(file)))
    assert "name the file with --config" in refused(run(environ, "--url", "http://x", "--model-id", "m", "-o", "a=b"))
    assert "Say whom to ask" in refused(run(environ, "--url", "http://x"))


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_asked(
    environ: dict[str, str], tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    file = tmp_path / "files" / "f.yaml"
    file.parent.mkdir()
    with OpenAIServer(answer=echo).in_thread() as server:
        there = ("--url", f"{server.url}", "--model-id", MODEL)
        cache = run({**environ, "XDG_CACHE_HOME": str(taken)}, *there, "--suite", "mine")
        file.write_text(FILE.replace("CACHE", str(taken / "kept")))
        named = run(environ, "--config", str(file), *there, "--suite", "mine")
    assert f"{taken}/modelops/gauntlet cannot be written to (Not a directory): name another folder." in refused(cache)
    assert f"{taken}/kept cannot be written to (Not a directory): name another folder." in refused(named)
    assert len(server.bodies) <= 2, "the first request of each at most"


WAYS: list[tuple[Fault, int]] = [
    ("hang", 1), ("server_error", 1), ("rate_limited", 1), ("empty_choices", 1), ("close", 2), ("html", 2),
    ("not_json", 2), ("unauthorized", 2), ("forbidden", 2), ("not_found", 2),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "code"), WAYS)
def test_an_endpoint_that_is_sick_from_the_start(fault: Fault, code: int, environ: dict[str, str]) -> None:
    started = time.monotonic()
    with OpenAIServer(fault=fault).in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--budget", "0.05")
    assert time.monotonic() - started < 40
    assert isinstance(result.exception, ModelOpsError)
    assert isinstance(result.exception, UserError) == (code == 2), result.exception.sentence


@pytest.mark.parametrize("fault", [f for f, _ in WAYS] + ["cut_stream", "slow_drip", "error_in_stream"])
def test_an_endpoint_that_falls_sick_has_no_verdict(fault: Fault, environ: dict[str, str], tmp_path: Path) -> None:
    limits = "requests: {attempt_timeout_s: 0.4, retries: 1, give_up_after: 3}\n"
    (tmp_path / "mine.yaml").write_text(SUITE + limits)
    server = OpenAIServer(answer=lambda body: "one two three yes", fault=fault, well_first=1)
    started = time.monotonic()
    with server.in_thread():
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--json")
    assert time.monotonic() - started < 40
    assert result.exit_code == (2 if fault in REFUSALS else 1), result.output
    out: Any = json.loads(result.stdout)
    assert out["reports"] == []
    assert "could not be scored" in out["failures"][0]


REFUSALS = {
    "unauthorized": "refuses the key that the variable MY_KEY holds (401 unauthorized): correct it and ask again.",
    "forbidden": "refuses the key that the variable MY_KEY holds (403 forbidden): correct it and ask again.",
    "not_found": "has no such route or no model 'fake' (404 not_found): check the address and the model id.",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_refusal_midway_is_for_the_user_and_the_run_goes_on_after_it(
    fault: Fault, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "next.yaml").write_text(SUITE.replace("name: mine", "name: next"))
    server = OpenAIServer(answer=echo, fault=fault, well_first=1 + 4)
    there = {**environ, "MY_KEY": "sk-1"}
    with server.in_thread():
        command = (
            "--url", server.url, "--model-id", MODEL, "--api-key-env", "MY_KEY", "--suite", "mine",
            "--suite", "next", "--json",
        )  # fmt: skip
        result = run(there, *command)
        assert result.exit_code == 2, result.output
        asked = len(server.bodies)
        server.fault = "none"
        again = run(there, *command[:-3], "--json")
    out: Any = json.loads(result.stdout)
    ((report, *others), told) = out["reports"], out["failures"][-1]
    assert (report["suite"], report["n_samples"], report["n_unscored"], others) == ("mine", 9, 5, [])
    assert REFUSALS[fault] in told
    assert "What was answered to 'mine' is kept: the same command goes on after it." in told
    assert told.endswith("Not asked any more: next.")
    assert f"modelops: {told}" in result.stderr
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["reports"][0]["n_unscored"] == 0
    assert len(server.bodies) - asked == 1 + 5, "what was answered before the refusal is not asked again"


@pytest.mark.parametrize("suite", ["contract", "performance"])
def test_a_refusal_in_the_midst_of_checks_or_load_is_no_fault_of_the_serving(
    suite: str, environ: dict[str, str], tmp_path: Path
) -> None:
    load = "{concurrencies: [1], requests: 6, warmups: 0, input_words: 4, output_tokens: 4, ignore_eos: false}"
    (tmp_path / "performance.yaml").write_text(f"name: performance\nkind: performance\ntitle: P\nperformance: {load}\n")
    with OpenAIServer(answer=echo, fault="unauthorized", well_first=1 + 2).in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", suite)
    assert result.exit_code == 2, result.output
    assert "wants a key, and none was sent (401 unauthorized)" in result.stderr


def test_one_question_that_is_refused_is_not_the_key(environ: dict[str, str]) -> None:
    """Some providers answer 403 to what their moderation does not like."""
    with OpenAIServer(answer=echo, fault="forbidden", well_first=1 + 4, faulty=1 + 5).in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--json")
    assert result.exit_code == 1, result.output
    (told,) = json.loads(result.stdout)["failures"]
    assert "has no verdict" in told


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Programs started here heed Ctrl-C, though these tests may run in the background of a shell, where none does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_goes_on_at_the_sample_where_it_stopped(
    ended_by: signal.Signals, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE + "requests: {concurrency: 1, deadline_s: 3600}\n")
    with OpenAIServer(answer=echo, first_token_s=0.5).in_thread() as server:
        command = [sys.executable, "-m", "modelops_dagster.cli", "eval", "--url", server.url, "--model-id", MODEL]
        first = subprocess.Popen(
            [*command, "--suite", "mine"], env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(server.bodies), lambda n: n >= 5, timeout_s=60)  # one is the first request of all
        first.send_signal(ended_by)
        _, said = first.communicate(timeout=60)
        asked = len(server.bodies)
        again = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--json")
    assert "Traceback" not in said
    (report,) = json.loads(again.stdout)["reports"]
    assert (report["n_samples"], report["n_unscored"]) == (9, 0)
    assert len(server.bodies) - asked <= 1 + 9 - 2  # its own first request; a kill may lose the last answer


def test_a_disk_that_fills_up_is_one_sentence_and_what_was_kept_is_not_asked_again(environ: dict[str, str]) -> None:
    limited = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
        "runpy.run_module('modelops_dagster.cli', run_name='__main__')"
    )
    with OpenAIServer(answer=echo).in_thread() as server:
        there = ("eval", "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--json")
        full = subprocess.run(
            [sys.executable, "-c", limited, *there], env={**os.environ, **environ}, capture_output=True, text=True
        )
        asked = len(server.bodies)
        again = run(environ, *there[1:])
    assert full.returncode == 2, full.stderr
    assert "Traceback" not in full.stderr
    assert "No space is left to write" in full.stderr and "what is there is kept" in full.stderr
    assert json.loads(again.stdout)["reports"][0]["n_unscored"] == 0
    assert len(server.bodies) - asked < 1 + 9


def test_the_first_request_stays_in_the_budget(environ: dict[str, str]) -> None:
    with OpenAIServer(fault="hang").in_thread() as server:
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--budget", "0.05")
    assert isinstance(result.exception, ModelOpsError)
    assert "no complete answer in 3 s" in result.exception.sentence
    assert len(server.bodies) <= 2


def test_the_budget_ends_a_run_that_would_take_too_long(environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo, first_token_s=1.2).in_thread() as server:
        started = time.monotonic()
        result = run(environ, "--url", server.url, "--model-id", MODEL, "--suite", "mine", "--budget", "0.05", "--json")
    assert time.monotonic() - started < 30
    assert result.return_value == 1 or result.exit_code == 1
    out: Any = json.loads(result.stdout)
    assert "has no verdict" in out["failures"][0]
    assert "deadline" in out["failures"][0]


def test_contract_and_load_are_left_out_for_a_completions_route(environ: dict[str, str]) -> None:
    with OpenAIServer(answer=echo).in_thread() as server:
        url = f"{server.url}/completions"
        result = run(environ, "--url", url, "--model-id", MODEL, "--json")
        assert [r["suite"] for r in json.loads(result.stdout)["reports"]] == ["mine"]
        assert "contract: asks the chat route and is left out" in result.stderr
        assert "asks the chat route" in refused(run(environ, "--url", url, "--model-id", MODEL, "--suite", "contract"))
