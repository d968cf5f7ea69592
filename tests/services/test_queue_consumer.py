"""The consumer program beside an engine that works, fails, or is gone; with a real Redis and a real RabbitMQ."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.processes import free_port
from tests.fakes.brokers import Cable, QueueServer
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.queue_scene import QueueScene
from tests.fakes.stack import ROOT, wait_until


class Scene(QueueScene):
    """With an engine that does what it is told."""

    def __init__(self, server: QueueServer, engine: OpenAIServer, log: Path) -> None:
        super().__init__(server, engine.url, MODEL, log)
        self.engine = engine


@pytest.fixture
def scene(queue_server: QueueServer, tmp_path: Path) -> Iterator[Scene]:
    with OpenAIServer().in_thread() as engine:
        scene = Scene(queue_server, engine, tmp_path / "consumer.log")
        yield scene
        scene.end()


def ids(count: int) -> list[str]:
    return [f"request-{number}" for number in range(count)]


def test_requests_are_answered_so_many_at_once(scene: Scene):
    scene.engine.latency_s = 0.3
    scene.submit(*ids(12))
    program = scene.start("--at-once", "3")
    answers = scene.all_answered(*ids(12))
    assert {a["response"]["status_code"] for a in answers} == {200}
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "You said: hello"
    assert {body["model"] for body in scene.engine.bodies} == {MODEL}, "the engine knows its own name alone"
    assert scene.engine.most_at_once == 3
    program.send_signal(signal.SIGTERM)
    assert program.wait(30) == 0


def test_consumer_that_is_killed_in_the_middle_loses_nothing(scene: Scene):
    scene.engine.latency_s = 0.8
    scene.submit(*ids(8))
    first = scene.start("--at-once", "4")
    wait_until(lambda: len(scene.engine.bodies), lambda asked: asked >= 5)
    wait_until(lambda: scene.engine.at_once, lambda now: now >= 2)
    first.kill()
    first.wait()
    assert len(scene.answers()) < 8
    scene.start("--at-once", "4")
    answers = scene.all_answered(*ids(8))
    assert all(a["error"] is None for a in answers)
    assert len(scene.engine.bodies) > 8, "what was under way was asked again"


def test_queue_that_is_away_for_a_while_is_waited_for(scene: Scene):
    cable = Cable(scene.server)
    scene.engine.latency_s = 0.5
    scene.submit(*ids(8))
    program = scene.start("--at-once", "2", **cable.server.environ())
    wait_until(lambda: len(scene.engine.bodies), lambda asked: asked >= 3)
    cable.cut()
    wait_until(lambda: scene.log.read_text(), lambda text: "does not answer" in text, 60)
    assert scene.log.read_text().count("does not answer") <= 2, "an outage is said, and not at every try"
    assert program.poll() is None
    cable.mend()
    answers = scene.all_answered(*ids(8))
    assert all(a["error"] is None for a in answers)
    cable.remove()


def test_sigterm_lets_what_is_under_way_end_and_takes_no_more(scene: Scene):
    scene.engine.latency_s = 2.0
    scene.submit(*ids(6))
    program = scene.start("--at-once", "2", "--drain-s", "60")
    wait_until(lambda: scene.engine.at_once, lambda now: now == 2)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 0
    assert len(scene.answers()) == len(scene.engine.bodies) < 6, "asked and answered, each of them"
    scene.engine.latency_s = 0.0
    scene.start()
    scene.all_answered(*ids(6))
    assert len(scene.engine.bodies) == 6, "nothing was asked twice"


def test_request_that_takes_longer_than_the_drain_goes_back_uncounted(scene: Scene):
    scene.engine.latency_s = 600.0
    scene.submit("long")
    for number in range(1, 4):
        program = scene.start("--drain-s", "0.2")
        wait_until(lambda asked=number: len(scene.engine.bodies) == asked)
        program.send_signal(signal.SIGTERM)
        assert program.wait(30) == 0
    scene.engine.latency_s = 0.0
    scene.start()
    (answer,) = scene.all_answered("long")
    assert answer["response"]["status_code"] == 200


def test_request_that_breaks_the_engine_is_given_up_with_the_reason(scene: Scene):
    scene.engine.fault = "server_error"
    scene.submit("poison")
    scene.start()
    (answer,) = scene.all_answered("poison")
    assert answer["response"] is None
    assert answer["error"]["code"] == "no_answer"
    assert answer["error"]["message"] == "The engine was asked 3 times, and at last it answered with HTTP 500."
    assert len(scene.engine.bodies) == 3


def test_request_whose_consumer_ends_each_time_is_given_up(scene: Scene):
    scene.engine.latency_s = 600.0
    scene.submit("deadly", "deadly too")
    for number in range(1, 4):
        program = scene.start("--at-once", "2")
        wait_until(lambda asked=2 * number: len(scene.engine.bodies) == asked, timeout_s=60)
        program.kill()
        program.wait()
    scene.start()
    answers = scene.all_answered("deadly", "deadly too")
    told = "It was tried 3 times, and what tried it ended each time."
    assert {a["error"]["message"] for a in answers} == {told}
    assert len(scene.engine.bodies) == 6


def test_busy_engine_is_waited_for_and_a_refusal_is_an_answer(scene: Scene):
    scene.engine.fault, scene.engine.faulty, scene.engine.retry_after = "rate_limited", 5, "0"
    scene.submit("patient")
    wrong = {"custom_id": "wrong", "url": "/v1/chat/completions", "body": {"messages": [], "max_tokens": 0}}
    scene.start()
    scene.all_answered("patient")
    scene.put([json.dumps(wrong)])
    found = {
        answer["custom_id"]: answer["response"]["status_code"] for answer in scene.all_answered("patient", "wrong")
    }
    assert found == {"patient": 200, "wrong": 400}


def test_engine_that_comes_late_finds_everything_waiting(scene: Scene):
    port = free_port("127.0.0.1")
    scene.submit(*ids(3))
    scene.start(engine=f"http://127.0.0.1:{port}")
    wait_until(lambda: scene.log.read_text(), lambda text: "takes requests of" in text, 60)
    assert scene.answers() == []
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests/fakes/engine.py"), "--port", str(port), "--served-model-name", MODEL],
        stdout=subprocess.DEVNULL,
    ) as engine:
        scene.all_answered(*ids(3))
        engine.kill()


def test_message_that_is_no_request_is_answered_where_it_can_be_addressed(scene: Scene):
    scene.put(["{", '{"custom_id": "odd", "url": "/metrics", "body": {}}'])
    scene.start()
    (answer,) = scene.all_answered("odd")
    assert answer["error"]["code"] == "invalid_request"
    assert "url '/metrics' is none of" in answer["error"]["message"]
    assert scene.engine.bodies == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MODELOPS_QUEUE_PASSWORD": "wrong"}, "does not let this program in"),
        ({"MODELOPS_QUEUE_URL": ""}, "MODELOPS_QUEUE_URL is not set"),
        ({"MODELOPS_QUEUE_URL": "http://redis"}, "MODELOPS_QUEUE_URL: url: it must be the address of a Redis"),
    ],
)
def test_mistakes_are_one_sentence(scene: Scene, environ: dict[str, str], said: str):
    program = scene.start(**environ)
    assert program.wait(60) == 2
    text = scene.log.read_text()
    assert said in text
    assert "Traceback" not in text
    assert scene.server.password not in text
