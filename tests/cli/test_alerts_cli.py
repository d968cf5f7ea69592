"""`modelops alerts`, as a person types it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from modelops_dagster.clients.alerts import Outbox, load_alert_config
from modelops_dagster.domain.alerts import alert
from modelops_dagster.settings import Settings
from tests.fakes.alert_receivers import HttpReceiver


def modelops(home: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = "from modelops_dagster.cli.main import main; main()"
    environ = {**os.environ, "MODELOPS_HOME": str(home), **variables}
    return subprocess.run([sys.executable, "-c", code, *argv], env=environ, capture_output=True, text=True, timeout=60)


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[HttpReceiver]:
    with HttpReceiver().running() as server:
        hidden = {"name": "hidden", "type": "webhook", "url_env": "HOOK_URL"}
        channels = [{"name": "hook", "type": "webhook", "url": server.url, "kinds": ["failure"]}, hidden]
        (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"channels": channels}))
        yield server


def test_without_a_file_the_example_is_named(tmp_path: Path):
    done = modelops(tmp_path, "alerts", "test")
    assert done.returncode == 2
    assert "alerts.example.yaml" in done.stderr
    assert "There is no alert yet" in modelops(tmp_path, "alerts", "list").stdout


def test_every_channel_is_tried(tmp_path: Path, hook: HttpReceiver):
    done = modelops(tmp_path, "alerts", "test", "--json")
    assert done.returncode == 1
    assert [(r["channel"], r["sent"]) for r in json.loads(done.stdout)] == [("hook", True), ("hidden", False)]
    assert "HOOK_URL is not set" in done.stdout
    assert hook.taken[0].json()["lines"] == ["channel hook", "gets: failure"]
    well = modelops(tmp_path, "alerts", "test", "hidden", HOOK_URL=f"{hook.url}/secret-path")
    assert (well.returncode, "secret-path" in well.stdout + well.stderr) == (0, False)
    assert "choose one of: hook, hidden" in modelops(tmp_path, "alerts", "test", "gone").stderr


def test_the_list_says_what_became_of_each(tmp_path: Path, hook: HttpReceiver):
    now = datetime.now(UTC)
    box, config = Outbox(tmp_path / "alerts"), load_alert_config(tmp_path / "alerts.yaml")
    box.put([alert("failure", "acme/x", "Failed: acme/x", ["why"], dedupe_key="1", at=now)], config, now)
    box.flush(config, {}.get, now)
    (row,) = json.loads(modelops(tmp_path, "alerts", "list", "--json").stdout)
    assert (row["title"], row["channels"]) == ("Failed: acme/x", {"hook": "sent", "hidden": "waiting"})
    assert "hook: sent, hidden: waiting" in modelops(tmp_path, "alerts", "list").stdout


def test_frameworks_come_from_the_environment_and_go_on_to_programs(tmp_path: Path):
    home = {"MODELOPS_HOME": str(tmp_path), "HOME": str(tmp_path)}
    for given, wanted in (("a/b, c/d=e", ("a/b", "c/d=e")), (",", ()), ("", Settings.load(home).frameworks)):
        found = Settings.load({**home, "MODELOPS_FRAMEWORKS": given})
        assert found.frameworks == wanted
        assert Settings.load({**home, **found.environ()}) == found
    assert Settings.load(home).package_index_url == ""
    done = modelops(tmp_path, "alerts", "list", MODELOPS_FRAMEWORKS="vllm")
    assert (done.returncode, "owner/name" in done.stderr) == (2, True)
