"""`modelops endpoints create` and `schema` against the real controller program."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
from tests.fakes.checkpoints import stored
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.stack import Stack

COMMIT = "c" * 40


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack")).up()
    stored(stack.home / "checkpoints", COMMIT)
    yield stack
    stack.down()


def modelops(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.modelops("endpoints", *arguments)


def written(folder: Path, *documents: dict[str, Any]) -> str:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump_all({"engine": "fake", "model": "acme/small", **d} for d in documents))
    return str(path)


def test_create_from_a_file(stack: Stack, tmp_path: Path):
    path = written(tmp_path, {"name": "one", "cpu_limit": 2}, {"name": "two"})
    shown = modelops(stack, "create", "-f", path, "--dry-run")
    assert [d["checkpoint_digest"][:7] for d in yaml.safe_load_all(shown.stdout)] == ["sha256:", "sha256:"]
    assert stack.client.list() == ()

    done = modelops(stack, "create", "-f", path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("one: Running http://127.0.0.1:")
    assert second.startswith("two: Running http://127.0.0.1:")
    assert "one: cpu_limit: noted and not enforced" in done.stderr
    status = stack.client.get("one")
    assert status is not None
    assert status.spec.served_model_name == f"acme/small@{COMMIT[:12]}"

    again = modelops(stack, "create", "-f", path)
    assert (again.returncode, "There is an endpoint 'one' already" in again.stderr) == (2, True)


def test_one_that_fails_exits_with_one(stack: Stack, tmp_path: Path):
    path = written(tmp_path, {"name": "broken", "engine_args": ["--die"]})
    done = modelops(stack, "create", "-f", path, "--json")
    assert done.returncode == 1, done.stdout
    (status,) = json.loads(done.stdout)["endpoints"]
    assert status["state"] == "DeployFailed"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gpus": -1}, "gpus: Input should be greater than or equal to 0."),
        ({"cluster": "west"}, "nodegroups is missing"),
        ({"cluster": "west", "nodegroups": ["a"]}, "needs the Kubernetes backend"),
        ({"model": "acme/none"}, "The store has no raw checkpoint of acme/none"),
    ],
)
def test_mistakes_are_one_sentence(stack: Stack, tmp_path: Path, fields: dict[str, Any], said: str):
    done = modelops(stack, "create", "-f", written(tmp_path, {"name": "wrong", **fields}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert stack.client.get("wrong") is None


def test_the_controller_refuses_what_needs_a_cluster(stack: Stack):
    with pytest.raises(Exception, match="needs the Kubernetes backend") as caught:
        stack.client.apply(stack.spec(name="wide", nodes=2, gpus=2))
    assert getattr(caught.value, "field", None) == "nodes"


def test_the_schema_is_json(stack: Stack):
    document = json.loads(modelops(stack, "schema").stdout)
    assert document["additionalProperties"] is False
    assert {"model", "engine", "autoscale_config", "target"} <= set(document["properties"])
    complete = json.loads(modelops(stack, "schema", "--complete").stdout)
    assert "checkpoint_digest" in complete["properties"]


def test_an_endpoint_is_evaluated_by_its_name(stack: Stack, tmp_path: Path):
    with OpenAIServer(api_key="sk-theirs").in_thread() as server:
        external = {
            "name": "theirs",
            "deployment": {"type": "none"},
            "target": {"api_endpoint": {"url": server.url, "model_id": MODEL, "api_key": "${THEIR_API_KEY}"}},
        }
        path = tmp_path / "theirs.yaml"
        path.write_text(yaml.safe_dump(external))
        CredentialStore(credentials_folder(stack.home)).put("THEIR_API_KEY", "sk-theirs")
        assert modelops(stack, "create", "-f", str(path)).returncode == 0
        done = evaluated(stack, tmp_path, "theirs")
        assert done.returncode in (0, 1), done.stderr
        (report,) = json.loads(done.stdout)["reports"]
        assert (report["n_samples"], report["n_unscored"]) == (2, 0)
        assert "sk-theirs" not in done.stdout + done.stderr
        stack.client.stop("theirs")
        stack.client.wait_stopped("theirs")
        stopped = evaluated(stack, tmp_path, "theirs")
        assert (stopped.returncode, "`modelops endpoints start theirs`" in stopped.stderr) == (2, True)
    nobody = evaluated(stack, tmp_path, "nobody")
    assert (nobody.returncode, "There is no endpoint and no alias 'nobody'" in nobody.stderr) == (2, True)
    both = evaluated(stack, tmp_path, "one", "--url", "http://127.0.0.1:9/v1")
    assert both.returncode == 2


def evaluated(stack: Stack, folder: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    asked = ("eval", "--endpoint", name, "--suite", "quality", "--limit", "2", "--json", *more)
    return subprocess.run(
        [sys.executable, "-m", "modelops_dagster.cli", *asked],
        env={**os.environ, **stack.settings.environ(), "MODELOPS_CACHE": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
