"""`modelops watch --once` as a person types it, without a running platform."""

import json
from pathlib import Path

from modelops_dagster.clients.watcher import Position, WatchStore
from modelops_dagster.services.hub_server import HubServer, publish
from tests.fakes.commands import modelops_beside
from tests.fakes.hub import write_repo


def test_baseline_then_a_release_then_nothing(hub: HubServer, tmp_path: Path):
    home = tmp_path / "home"
    publish(hub.root, "acme/old", write_repo(tmp_path / "old"))
    first = modelops_beside(hub, home, "watch", "--once", "--org", "acme", "--json")
    assert first.returncode == 0, first
    assert [(d["repo_id"], d["decision"], d["reason"]) for d in json.loads(first.stdout)] == [
        ("acme/old", "skip", "baseline")
    ]
    commit = publish(hub.root, "acme/new", write_repo(tmp_path / "new", weights=b"5678"))
    second = json.loads(modelops_beside(hub, home, "watch", "--once", "--org", "acme", "--json").stdout)
    assert [d for d in second if d["decision"] == "onboard"] == [
        {"repo_id": "acme/new", "commit_hash": commit.commit_hash, "decision": "onboard", "reason": "new repository"}
    ]
    third = json.loads(modelops_beside(hub, home, "watch", "--once", "--json", MODELOPS_HUB_ORGS="acme").stdout)
    assert {(d["decision"], d["reason"]) for d in third} == {("skip", "decided before")}
    entries = WatchStore(home / "watcher").log.read(Position(), limit=None).entries
    assert [e.detection.repo_id for e in entries] == ["acme/new"]


def test_people_read_a_table_and_mistakes_are_sentences(hub: HubServer, tmp_path: Path):
    home = tmp_path / "home"
    modelops_beside(hub, home, "watch", "--once", "--org", "acme")
    publish(hub.root, "acme/model-GGUF", write_repo(tmp_path / "m"))
    shown = modelops_beside(hub, home, "watch", "--once", "--org", "acme")
    assert "quantized re-publication" in shown.stdout
    for arguments, code, words in (
        (("--once",), 2, "No organisation is followed"),
        ((), 2, "--once"),
        (("--once", "--org", "a/b"), 2, "not the name of an organisation"),
    ):
        done = modelops_beside(hub, home, "watch", *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), done
    hub.faults.unavailable = 100
    down = modelops_beside(hub, home, "watch", "--once", "--org", "acme", "--json")
    assert (down.returncode, json.loads(down.stdout)) == (1, [])
    assert "503" in down.stderr
    assert "0 organisations read" in modelops_beside(hub, home, "watch", "--once", "--org", "acme").stdout
    assert "Traceback" not in down.stderr
