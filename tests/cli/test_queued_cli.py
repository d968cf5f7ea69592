"""`modelops endpoints submit` and `answers`, with a real queue, the real consumer and the real controller."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.domain.queues import QueueNames
from tests.fakes.brokers import QueueServer
from tests.fakes.cluster.kubelet import FakeCluster
from tests.fakes.cluster.stack import ClusterStack
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.stack import ROOT, wait_until

QUEUED = {"async_deployment_type": "ASYNC", "scale_to_zero": True, "min_replicas": 0}


@pytest.fixture(scope="module")
def stack(queue_server: QueueServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterStack]:
    folder = tmp_path_factory.mktemp("stack")
    with FakeCluster() as cluster:
        queue = {"url": queue_server.url, "image": "acme/core:1"}
        stack = ClusterStack(folder, cluster.api.kubeconfig(folder), queue=queue)
        stack.up()
        stack.client.apply(stack.spec(name="nightly", **QUEUED))
        stack.client.apply(stack.spec(name="plain"))
        yield stack
        stack.down()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    def request(custom_id: str, **body: object) -> str:
        asked = {"messages": [{"role": "user", "content": custom_id}], **body}
        return json.dumps({"custom_id": custom_id, "url": "/v1/chat/completions", "body": asked})

    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join([request("good"), request("better"), request("bad", max_tokens=0)]))
    return path


@pytest.fixture
def consumer(queue_server: QueueServer) -> Iterator[None]:
    with OpenAIServer().in_thread() as engine:
        command = [sys.executable, "-m", "modelops_dagster.services.queue_consumer", "--endpoint", "nightly"]
        command += ["--model", MODEL, "--engine", engine.url.removesuffix("/v1")]
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **queue_server.environ()}) as program:
            yield
            program.terminate()


def modelops(stack: ClusterStack, server: QueueServer, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    access = {name: value for name, value in server.environ().items() if not name.endswith("URL")}
    return stack.modelops("endpoints", *map(str, arguments), **access)


@pytest.mark.usefixtures("consumer")
def test_file_of_requests_is_answered(stack: ClusterStack, queue_server: QueueServer, file: Path, tmp_path: Path):
    output = tmp_path / "answers.jsonl"
    done = modelops(stack, queue_server, "submit", "nightly", "-f", file, "--output", output, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["total"], told["answered"], told["failed"]) == (1, 3, 2, 1), done.stderr
    answers = {a["custom_id"]: a["response"] for a in map(json.loads, output.read_text().splitlines())}
    assert {name: response["status_code"] for name, response in answers.items()} == {
        "good": 200,
        "better": 200,
        "bad": 400,
    }
    assert answers["good"]["body"]["choices"][0]["message"]["content"] == "You said: good"
    again = modelops(stack, queue_server, "answers", "nightly", told["submission"])
    assert (again.returncode, again.stdout) == (1, f"{told['submission']}: 2 answered, 1 failed\n")


def test_file_may_be_left_and_its_answers_read_later(stack: ClusterStack, queue_server: QueueServer, file: Path):
    done = modelops(stack, queue_server, "submit", "nightly", "-f", file, "--no-wait", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["answered"], told["failed"]) == (0, 0, 0)
    assert "3 requests in the queue of nightly" in done.stderr
    later = modelops(stack, queue_server, "answers", "nightly", told["submission"], "--json")
    assert (later.returncode, json.loads(later.stdout)["answered"]) == (0, 0)
    state = json.loads(modelops(stack, queue_server, "queue", "nightly", "--json").stdout)
    assert (state["requests"], state["dead_letters"]) == (3, [])


@pytest.mark.usefixtures("consumer")
def test_dead_letters_are_shown_with_their_reasons(stack: ClusterStack, queue_server: QueueServer):
    async def put() -> None:
        broker = queue_server.broker()
        await broker.put(QueueNames("nightly"), "by-hand", ['{"custom_id": "odd", "url": "/metrics"}'])
        await broker.close()

    asyncio.run(put())
    shown = wait_until(
        lambda: modelops(stack, queue_server, "queue", "nightly").stdout, lambda text: "by-hand" in text, 60
    )
    assert "dead letters 1\n" in shown
    assert "line 1: body" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "nobody", "-f"), "There is no endpoint 'nobody'"),
        (("submit", "plain", "-f"), "Endpoint plain is SYNC and has no queue: `modelops batch submit`"),
        (("answers", "nightly", "a:b"), "'a:b' is not the id of a submission"),
    ],
)
def test_mistakes_are_one_sentence(
    stack: ClusterStack, queue_server: QueueServer, file: Path, arguments: tuple[str, ...], said: str
):
    given = (*arguments, file) if arguments[-1] == "-f" else arguments
    done = modelops(stack, queue_server, *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_password_says_which_variables(stack: ClusterStack, queue_server: QueueServer, file: Path):
    done = stack.modelops(
        "endpoints", "submit", "nightly", "-f", str(file),
        MODELOPS_QUEUE_USERNAME=queue_server.username, MODELOPS_QUEUE_PASSWORD="wrong",
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "correct MODELOPS_QUEUE_USERNAME and MODELOPS_QUEUE_PASSWORD" in done.stderr
