"""`modelops hub`: what a mirror's operator types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from modelops_dagster.services.hub_server import HubServer, publish, read_tokens
from tests.fakes.alert_receivers import HttpReceiver
from tests.fakes.hub import running_hub, write_repo


def modelops(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "MODELOPS_HOME": str(home / "state")}
    command = [sys.executable, "-c", "from modelops_dagster.cli.main import main; main()", "hub", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120)


def test_a_revision_is_mirrored_and_told_as_json(tmp_path: Path):
    with running_hub(tmp_path / "upstream") as server:
        commit = publish(server.root, "acme/one", write_repo(tmp_path / "source"))
        to = ["--from", server.url, "--to", str(tmp_path / "mirror")]
        first = modelops(tmp_path, "mirror", "acme/one", *to, "--json")
        assert first.returncode == 0, first.stderr
        told = json.loads(first.stdout)
        assert (told["commit_hash"], told["files"], told["main_moved"]) == (commit.commit_hash, 5, True)
        assert "mirroring acme/one" in first.stderr
        again = modelops(tmp_path, "mirror", "acme/one", *to)
        assert "all here already" in again.stdout
        absent = modelops(tmp_path, "mirror", "acme/none", *to)
        assert absent.returncode == 2
        assert "acme/none" in absent.stderr and "Traceback" not in absent.stderr


def test_a_hub_that_does_not_answer_and_a_folder_that_is_not_there_are_for_the_user(tmp_path: Path):
    away = modelops(tmp_path, "mirror", "acme/one", "--from", "http://127.0.0.1:1", "--to", str(tmp_path / "mirror"))
    assert away.returncode == 2, "1 would be a verdict"
    assert "The Hub at http://127.0.0.1:1 did not answer" in away.stderr and "Traceback" not in away.stderr
    mistyped = modelops(tmp_path, "serve", str(tmp_path / "mistyped"))
    assert mistyped.returncode == 2
    assert "does not exist" in mistyped.stderr and not (tmp_path / "mistyped").exists()


def test_a_tag_is_set_and_a_bad_one_is_one_sentence(tmp_path: Path):
    commit = publish(tmp_path / "hub", "acme/one", write_repo(tmp_path / "source"))
    done = modelops(tmp_path, "ref", str(tmp_path / "hub"), "acme/one", "v1", "--json")
    assert json.loads(done.stdout) == {
        "repo_id": "acme/one",
        "kind": "tag",
        "name": "v1",
        "commit_hash": commit.commit_hash,
    }
    refused = modelops(tmp_path, "ref", str(tmp_path / "hub"), "acme/one", "main", "--kind", "branch")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_a_token_is_shown_once_and_opens_the_hub(tmp_path: Path):
    made = modelops(tmp_path, "token", "ci", "--token-file", str(tmp_path / "tokens"), "--json")
    token = json.loads(made.stdout)["token"]
    assert token not in (tmp_path / "tokens").read_text()
    with HubServer(tmp_path / "hub", tokens=read_tokens(tmp_path / "tokens")) as server:
        assert HfApi(endpoint=server.url, token=token).whoami()["name"] == "ci"


@pytest.mark.parametrize("is_up", [True, False])
def test_a_publication_tells_a_webhook(tmp_path: Path, is_up: bool):
    (tmp_path / "secret").write_text("s3cret\n")
    receiver = HttpReceiver(failing=[] if is_up else [403])
    with receiver.running():
        words = ["--webhook", receiver.url, "--webhook-secret-file", str(tmp_path / "secret")]
        source = str(write_repo(tmp_path / "source"))
        done = modelops(tmp_path, "publish", str(tmp_path / "hub"), "acme/one", source, *words)
    assert [r.headers["x-webhook-secret"] for r in receiver.requests] == ["s3cret"]
    assert done.returncode == (0 if is_up else 2), done.stderr
    assert is_up or "status 403" in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
