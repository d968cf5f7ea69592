"""`modelops watch --once` as a person types it, without a running platform."""

import json
import os
import subprocess
import sys
from pathlib import Path

from modelops_dagster.clients.watcher import Position, WatchStore
from modelops_dagster.services.hub_server import HubServer, publish
from tests.fakes.hub import write_repo


def modelops(hub: HubServer, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MODELOPS_HOME": str(home), "MODELOPS_HUB_URL": hub.url, "HF_TOKEN": "", **more}
    command = [sys.executable, "-m", "modelops_dagster.cli", "watch", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_baseline_then_a_release_then_nothing(hub: HubServer, tmp_path: Path):
    home = tmp_path / "home"
    publish(hub.root, "acme/old", write_repo(tmp_path / "old"))
    first = modelops(hub, home, "--once", "--org", "acme", "--json")
    assert first.returncode == 0, first
    assert [(d["repo_id"], d["decision"], d["reason"]) for d in json.loads(first.stdout)] == [
        ("acme/old", "skip", "baseline")
    ]
    commit = publish(hub.root, "acme/new", write_repo(tmp_path / "new", weights=b"5678"))
    second = json.loads(modelops(hub, home, "--once", "--org", "acme", "--json").stdout)
    assert [d for d in second if d["decision"] == "onboard"] == [
        {"repo_id": "acme/new", "commit_hash": commit.commit_hash, "decision": "onboard", "reason": "new repository"}
    ]
    third = json.loads(modelops(hub, home, "--once", "--json", MODELOPS_HUB_ORGS="acme").stdout)
    assert {(d["decision"], d["reason"]) for d in third} == {("skip", "decided before")}
    entries = WatchStore(home / "watcher").log.read(Position(), limit=None).entries
    assert [e.detection.repo_id for e in entries] == ["acme/new"]


def test_people_read_a_table_and_mistakes_are_sentences(hub: HubServer, tmp_path: Path):
    home = tmp_path / "home"
    modelops(hub, home, "--once", "--org", "acme")
    publish(hub.root, "acme/model-GGUF", write_repo(tmp_path / "m"))
    shown = modelops(hub, home, "--once", "--org", "acme")
    assert "quantized re-publication" in shown.stdout
    for arguments, code, words in (
        (("--once",), 2, "No organisation is followed"),
        ((), 2, "--once"),
        (("--once", "--org", "a/b"), 2, "not the name of an organisation"),
    ):
        done = modelops(hub, home, *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done
    hub.faults.unavailable = 100
    down = modelops(hub, home, "--once", "--org", "acme", "--json")
    assert (down.returncode, json.loads(down.stdout)) == (1, [])
    assert "503" in down.stderr
    assert "Traceback" not in down.stderr
