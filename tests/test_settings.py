"""What is remembered of a running platform, and of one that was killed."""

import json
import os
from pathlib import Path

import pytest

from modelops_dagster.clients.processes import ProcessIdentity, identify
from modelops_dagster.domain.errors import UserError
from modelops_dagster.settings import Settings

WRITTEN = {"dagster_port": 4321, "hub_url": "http://127.0.0.1:9", "hub_orgs": ["acme"], "policy": "demo"}


def record(home: Path, owner: ProcessIdentity) -> None:
    (home / "run").mkdir()
    (home / "run" / "stack.json").write_text(json.dumps({"owner": owner.model_dump(), "settings": WRITTEN}))


def myself() -> ProcessIdentity:
    found = identify(os.getpid())
    assert found is not None
    return found


def test_commands_find_the_platform_that_runs(tmp_path: Path):
    record(tmp_path, myself())
    settings = Settings.load({"MODELOPS_HOME": str(tmp_path)})
    assert (settings.dagster_port, settings.hub_url) == (4321, "http://127.0.0.1:9")
    assert (settings.hub_orgs, settings.policy) == (("acme",), "demo")


def test_a_killed_platform_leaves_neither_its_policy_nor_its_hub_to_the_next(tmp_path: Path):
    record(tmp_path, myself().model_copy(update={"start_ticks": 1}))
    settings = Settings.load({"MODELOPS_HOME": str(tmp_path)})
    assert settings.dagster_port == 4321, "what it left running still answers there"
    assert (settings.hub_url, settings.hub_orgs, settings.policy) == ("https://huggingface.co", (), "default")


def test_a_variable_comes_before_what_was_written(tmp_path: Path):
    record(tmp_path, myself())
    assert Settings.load({"MODELOPS_HOME": str(tmp_path), "MODELOPS_POLICY": "default"}).policy == "default"


def test_a_value_that_does_not_hold_names_its_variable(tmp_path: Path):
    with pytest.raises(UserError, match="MODELOPS_DAGSTER_PORT='-1' does not hold"):
        Settings.load({"MODELOPS_HOME": str(tmp_path), "MODELOPS_DAGSTER_PORT": "-1"})
