"""A queue before a real engine, while the engine and its consumer are killed at work."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.brokers import QueueServer
from tests.fakes.queue_scene import QueueScene
from tests.fakes.real_engine import CAPITAL, NAME, Running, Start
from tests.fakes.stack import wait_until

pytestmark = pytest.mark.engine
IDS = [f"request-{number}" for number in range(6)]


@pytest.fixture
def scene(redis_queue: QueueServer, ours: Running, tmp_path: Path) -> Iterator[QueueScene]:
    scene = QueueScene(redis_queue, ours.url, NAME, tmp_path / "consumer.log")
    yield scene
    scene.end()


def test_engine_and_consumer_are_killed_at_work_and_every_request_has_its_answer(
    scene: QueueScene, ours: Running, start: Start, model: Path
):
    scene.submit(*IDS, messages=CAPITAL, max_tokens=24, temperature=0)
    consumer = scene.start("--at-once", "2")
    wait_until(scene.answers, bool, 120)
    os.killpg(ours.process.pid, signal.SIGKILL)
    ours.process.wait()
    again = start("transformers", model, port=ours.port)
    try:
        wait_until(scene.answers, lambda seen: len(seen) >= 3, 120)
        consumer.kill()
        consumer.wait()
        scene.start("--at-once", "2")
        answers = scene.all_answered(*IDS)
    finally:
        again.stop()
    assert {a["response"]["status_code"] for a in answers} == {200}
    texts = {a["response"]["body"]["choices"][0]["message"]["content"] for a in answers}
    assert all("Paris" in text for text in texts), texts
