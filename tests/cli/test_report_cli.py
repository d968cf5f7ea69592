"""`modelops report` as a person and a program call it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelops_dagster.cli.report import command
from modelops_dagster.domain.errors import InvalidSpec, UserError
from tests.clients.score_world import TINY, at_work, fill


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    fill(tmp_path)
    return tmp_path


def test_a_model_in_the_terminal(home: Path):
    shown = CliRunner().invoke(command, [TINY], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "look at: 1 sample that the incumbent got right" in shown.stdout
    for words in ("by category, worst first", "1 answered unlike the incumbent", "under load", "4 at a time", "0 of 4"):
        assert words in shown.stdout, words


def test_what_it_cost_in_the_terminal(home: Path):
    at_work(home, gpus=2, usd_per_hour=4.0)
    shown = CliRunner().invoke(command, [TINY], catch_exceptions=False)
    assert "  4.00 GPU-hours for the evaluation, " in shown.stdout
    told = json.loads(CliRunner().invoke(command, [TINY, "--json"], catch_exceptions=False).stdout)
    assert told["lanes"][0]["occupancy"]["evaluation_hours"] == 2.0


def test_the_leaderboard_in_the_terminal_and_for_programs(home: Path):
    assert TINY in CliRunner().invoke(command, [], catch_exceptions=False).stdout
    rows = json.loads(CliRunner().invoke(command, ["--json"], catch_exceptions=False).stdout)
    assert {row["repo_id"] for row in rows} == {"acme/tiny", "acme/small"}
    told = json.loads(CliRunner().invoke(command, [TINY, "--json"], catch_exceptions=False).stdout)
    assert told["lanes"][0]["verdict"]["outcome"] == "fail"


def test_a_file(home: Path, tmp_path: Path):
    for arguments in ([TINY], []):
        done = CliRunner().invoke(command, [*arguments, "-o", str(tmp_path / "r.html")], catch_exceptions=False)
        assert done.stdout == ""
        assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UserError, match="cannot be written"):
        CliRunner().invoke(command, ["-o", str(tmp_path / "no" / "r.html")], catch_exceptions=False)
    with pytest.raises(InvalidSpec, match="no verdict on 'acme/nobody'"):
        CliRunner().invoke(command, ["acme/nobody"], catch_exceptions=False)
