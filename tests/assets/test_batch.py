"""The job that answers a file, against the real gateway: what it leaves, how it goes on, and how it is stopped."""

import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.batch import answer_batch
from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.domain.batch import Batch
from modelops_dagster.resources.platform import GatewayResource
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, Gateway, target


@pytest.fixture(scope="module")
def alpha() -> Iterator[FakeBackend]:
    with FakeBackend("alpha") as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, alpha: FakeBackend) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"))
    running.wait_ready()
    running.put(ALIAS, target(alpha))
    running.key()
    yield running
    running.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [
        {
            "custom_id": f"request-{i}",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"{i}?"}]},
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(gateway: Gateway, file: Path, run_id: str | None = None, **config: object) -> dg.ExecuteInProcessResult:
    """One run of the job, on an instance of its own: the same `run_id` again is a run that is started again."""
    resources = {"gateway": GatewayResource(url=gateway.url, root=str(gateway.home / "gateway"))}
    given = {"file": str(file), "alias": ALIAS, **config}
    return answer_batch.execute_in_process(
        resources=resources,
        run_config={"ops": {"answer_requests": {"config": given}}},
        run_id=run_id,
        instance=dg.DagsterInstance.ephemeral(),
        raise_on_error=False,
    )


def custom_ids(path: Path) -> Counter[str]:
    return Counter(json.loads(line)["custom_id"] for line in path.read_text().splitlines())


def batches(gateway: Gateway, origin: str) -> list[Batch]:
    return [b for b in BatchStore(gateway.home / "gateway").list() if b.metadata == {"origin": origin}]


def failure(done: dg.ExecuteInProcessResult) -> str:
    (event,) = [e for e in done.all_events if e.is_step_failure]
    reason = event.step_failure_data.user_failure_data
    assert reason is not None, event
    return str(reason.description)


EVERY = Counter(f"request-{i}" for i in range(12))


def test_every_request_of_the_file_is_answered_once_and_counted_on_the_page(gateway: Gateway, file: Path) -> None:
    done = run(gateway, file, answers=str(file.parent / "out/answers.jsonl"))
    assert done.success
    assert custom_ids(file.parent / "out/answers.jsonl") == EVERY
    assert (file.parent / "in.jsonl.errors.jsonl").read_text() == ""
    (event,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    shown = {name: value.value for name, value in event.step_output_data.metadata.items()}
    assert (shown["requests"], shown["answered"], shown["failed"]) == (12, 12, 0)


def test_what_got_no_answer_is_asked_again_and_nothing_else_is(
    gateway: Gateway, alpha: FakeBackend, file: Path
) -> None:
    origin = str(uuid.uuid4())
    alpha.fail_status = 400
    said = failure(run(gateway, file, origin))
    assert "12 of 12 requests got no answer" in said
    assert custom_ids(file.parent / "in.jsonl.errors.jsonl") == EVERY
    alpha.fail_status = None
    asked = len(alpha.bodies)
    assert run(gateway, file, origin).success
    assert run(gateway, file, origin).success, "a third time there is nothing left to ask"
    assert len(alpha.bodies) - asked == 12
    assert custom_ids(file.parent / "in.jsonl.answers.jsonl") == EVERY
    assert [b.total for b in batches(gateway, origin)] == [12, 12]


def test_a_run_that_is_terminated_ends_its_batch_and_the_next_one_goes_on(
    gateway: Gateway, alpha: FakeBackend, file: Path
) -> None:
    origin = str(uuid.uuid4())
    alpha.hold_s = 0.3

    def terminate() -> None:
        while not any(b.completed >= 4 for b in batches(gateway, origin)):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=terminate)
    watcher.start()
    assert not run(gateway, file, origin).success
    watcher.join()
    deadline = time.monotonic() + 60
    while batches(gateway, origin)[0].active:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (first,) = batches(gateway, origin)
    assert (first.state, 4 <= first.completed < 12) == ("cancelled", True)
    alpha.hold_s = 0.0
    assert run(gateway, file, origin).success
    second, _ = batches(gateway, origin)
    assert second.total == 12 - first.completed
    assert custom_ids(file.parent / "in.jsonl.answers.jsonl") == EVERY


def test_what_cannot_be_asked_is_said_in_one_sentence(gateway: Gateway, file: Path) -> None:
    assert "cannot be read" in failure(run(gateway, file.with_name("nothing.jsonl")))
    assert "say by its id which key" in failure(run(gateway, file, key_id="0" * 16))
    file.write_text("{\n")
    assert "line 1" in failure(run(gateway, file))
