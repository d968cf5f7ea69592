"""`modelops models verify | prune | pin | allow …` as a person types them, without a running platform."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from modelops_dagster.cli.main import main
from modelops_dagster.clients.checkpoints import AllowList, CheckpointStore
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import change_byte, client, downloads, noise, released, write_repo


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def checkpoint(hub: HubServer, home: Path, tmp_path: Path) -> Checkpoint:
    release = released(hub, write_repo(tmp_path / "a", weights=noise(10_000)))
    return CheckpointStore(home / "checkpoints").ensure(release, client(hub))


class Ended(NamedTuple):
    """What a command left on the terminal."""

    returncode: int
    stdout: str
    stderr: str


Models = Callable[..., Ended]


@pytest.fixture
def models(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """Run `modelops models …` in this process, from its entry point to its exit code."""
    for name, value in {"MODELOPS_HOME": str(home), "MODELOPS_HUB_URL": hub.url, "HF_TOKEN": ""}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["modelops", "models", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_changed_byte_is_found_and_repaired(models: Models, hub: HubServer, checkpoint: Checkpoint):
    good = models("verify", "acme/one")
    assert (good.returncode, "are what was released" in good.stdout) == (0, True), good
    assert "verifying acme/one@" in good.stderr
    change_byte(Path(checkpoint.directory) / "model.safetensors")
    found = models("verify", "acme/one", "--ref", checkpoint.revision.commit_hash[:12], "--json")
    assert found.returncode == 1
    assert "expected sha256" in json.loads(found.stdout)[0]["problems"][0]
    told = models("verify", "acme/one")
    assert "--repair` fetches" in told.stdout
    before = len(downloads(hub))
    repaired = models("verify", "acme/one", "--ref", "main", "--repair")
    assert (repaired.returncode, "repaired: model.safetensors" in repaired.stdout) == (0, True), repaired
    assert "model.safetensors" in downloads(hub)[-1] and "Traceback" not in repaired.stderr
    weights = [r for r in downloads(hub)[before:] if "model.safetensors" in r]
    assert len(weights) == 1


def test_numbers_that_are_none_are_found_on_request(models: Models, hub: HubServer, home: Path, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    values = np.array([1, 2], "<u2")
    values[1] = 0x7FC0  # NaN in bfloat16
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (source / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    CheckpointStore(home / "checkpoints").ensure(released(hub, source), client(hub))
    assert models("verify", "acme/one").returncode == 0
    found = models("verify", "acme/one", "--values")
    assert (found.returncode, "model.safetensors: w: 1 NaN, 0 infinite" in found.stdout) == (1, True), found


def test_prune_says_what_it_keeps_and_why(models: Models, checkpoint: Checkpoint):
    kept = models("prune")
    assert (kept.returncode, "among the 2 newest" in kept.stdout) == (0, True), kept
    revision = f"acme/one@{checkpoint.revision.commit_hash}"
    assert "is pinned" in models("pin", revision, "--reason", "demo").stdout
    everything = ("prune", "--keep", "0", "--older-than", "0")
    assert "pinned: demo" in models(*everything).stdout
    assert models("unpin", revision).returncode == 0
    rehearsal = models(*everything, "--dry-run")
    assert "1 checkpoint would be deleted" in rehearsal.stdout and Path(checkpoint.directory).is_dir()
    done = json.loads(models(*everything, "--json").stdout)
    assert done["deleted"] == [checkpoint.directory] and done["freed_bytes"] > 10_000
    assert not Path(checkpoint.directory).exists()


def test_allowing_is_recorded_and_can_be_taken_back(models: Models, home: Path):
    revision = f"acme/one@{'a1' * 20}"
    assert "No repository" in models("allowed").stdout
    done = models("allow", revision, "--remote-code", "--reason", "read by two of us")
    assert (done.returncode, "may bring code" in done.stdout) == (0, True), done
    entry = json.loads(models("allowed", "--json").stdout)[0]
    assert entry["reason"] == "read by two of us" and entry["by"] and entry["at"]
    assert "commits may bring code" in (home / "allow.yaml").read_text()
    assert models("disallow", revision).returncode == 0
    assert "withdrawn by" in models("allowed").stdout
    assert not any(a.holds for a in AllowList(home / "allow.yaml").entries())


def test_mistakes_are_sentences(models: Models, checkpoint: Checkpoint):
    revision = f"acme/one@{'a1' * 20}"
    for arguments, words in (
        (("verify", "acme/two"), "has no checkpoint of acme/two"),
        (("verify", "nonsense"), "not a repository id"),
        (("verify", "acme/one", "--ref", "no-such-branch"), "no branch, tag or commit"),
        (("prune", "--older-than", "soon"), "not a duration"),
        (("pin", "acme/one@main"), "does not name a commit"),
        (("pin", revision), "has no checkpoint of"),
        (("allow", "acme/one@main", "--remote-code", "--reason", "x"), "does not name a commit"),
        (("allow", revision, "--remote-code", "--reason", " "), "--reason is empty"),
        (("allow", revision, "--reason", "x"), "--remote-code"),
        (("disallow", revision), "is not allowed anything"),
    ):
        done = models(*arguments)
        assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done
