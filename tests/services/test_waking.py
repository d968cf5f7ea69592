"""Sleeping and waking with the real controller, the real gateway and processes for engines."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from modelops_dagster.cli.endpoints import command
from modelops_dagster.domain.endpoints import EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import RouteTarget
from tests.fakes.stack import Stack, wait_until
from tests.services.gateway_process import Gateway, error

COOLDOWN = {"scale_to_zero": True, "autoscale_config": {"targets": [{"metric": "concurrency", "target": 4}]}}


class Platform:
    """One home with its controller and its gateway."""

    def __init__(self, folder: Path) -> None:
        self.stack = Stack(folder)
        self.stack.up("--keep-engines")
        self.gateway = Gateway(self.stack.home)
        self.gateway.wait_ready()
        self.key = self.gateway.key()

    def endpoint(self, name: str, *engine_args: str, cooldown_s: int = 1) -> EndpointStatus:
        """A Running endpoint that may sleep, behind an alias of its own name."""
        scaling = {**COOLDOWN["autoscale_config"], "cooldown_period": cooldown_s}  # type: ignore[dict-item]
        status = self.stack.ready(*engine_args, name=name, scale_to_zero=True, autoscale_config=scaling)
        target = RouteTarget(
            endpoint=name,
            url=str(status.url),
            served_model_name=status.spec.served_model_name,
            commit_hash="c" * 40,
        )
        self.gateway.put(name, target)
        return status

    def call(self, name: str, **more: object) -> httpx.Response:
        return self.gateway.post(self.key, name, **more)

    def asleep(self, name: str) -> EndpointStatus:
        return wait_until(lambda: self.stack.client.get(name), lambda s: s and s.state is EndpointState.SLEEPING)  # type: ignore[return-value]

    def engines_of(self, name: str) -> int:
        return sum(log.parent.name == name for log in self.stack.engines().values())

    def starts_of(self, name: str) -> int:
        return self.stack.log.read_text().count(f"{name}: started fake")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("platform"))
    yield platform
    platform.gateway.stop()
    platform.stack.down()


def test_an_idle_endpoint_sleeps_and_many_calls_wake_it_once(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    # awake for a while, as eight calls are not all sent on within a second of its start on a busy machine
    before = platform.endpoint("dozer", "--child", "--load-s", "0.5", cooldown_s=5)
    status = platform.asleep("dozer")
    assert (status.desired, status.url, status.pid, status.message) == ("Running", None, None, "")
    assert status.start_seconds == before.start_seconds, "it is what a waking call is told"
    assert platform.engines_of("dozer") == 0
    for name, value in platform.stack.settings.environ().items():
        monkeypatch.setenv(name, value)
    assert "Sleeping" in CliRunner().invoke(command, ["list"]).output

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: platform.call("dozer"), range(8)))
    assert [a.status_code for a in answers] == [200] * 8, [a.text for a in answers if a.status_code != 200]
    assert platform.starts_of("dozer") == 2, "one start when it was made and one for all eight calls"


def test_an_endpoint_in_use_does_not_sleep(platform: Platform):
    platform.endpoint("busy", "--tokens-per-second", "2")
    began = time.monotonic()
    answer = platform.call("busy", body={"max_tokens": 16, "stream": True})
    assert time.monotonic() - began > 3, "it took longer than the cool-down period"
    assert answer.text.rstrip().endswith("data: [DONE]"), "a stream is not begun again: one engine wrote all of it"


def test_who_asks_the_engine_itself_keeps_it_awake(platform: Platform):
    platform.endpoint("direct", "--tokens-per-second", "2")
    body = {"messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 16}

    def ask() -> int | None:
        platform.stack.client.start("direct")  # on a busy machine it may have fallen asleep before it was asked
        url = platform.stack.client.wait_ready("direct", 60).url
        try:
            return httpx.post(f"{url}/chat/completions", json=body, timeout=30, trust_env=False).status_code
        except httpx.ConnectError:
            return None

    assert wait_until(ask) == 200, "it took longer than the cool-down period"
    platform.asleep("direct")


def test_who_will_not_wait_is_told_when_to_come_again(platform: Platform):
    measured = platform.endpoint("slow", "--load-s", "4").start_seconds
    platform.asleep("slow")
    answer = platform.call("slow", headers={"x-scale-up-timeout": "0.2"})
    assert error(answer) == (503, "endpoint_waking")
    assert measured is not None
    assert 1 <= int(answer.headers["retry-after"]) <= measured + 1
    assert "127.0.0.1" not in answer.text
    assert platform.call("slow").status_code == 200, "the first call woke it, this one waited"
    assert platform.starts_of("slow") == 2


def test_a_restarted_controller_leaves_it_asleep_and_still_hears_calls(platform: Platform):
    platform.endpoint("night")
    since = platform.asleep("night").since
    platform.stack.kill()
    answers: list[httpx.Response] = []
    caller = threading.Thread(target=lambda: answers.append(platform.call("night")))
    caller.start()
    time.sleep(0.3)
    platform.stack.up("--keep-engines")
    caller.join(30)
    assert [a.status_code for a in answers] == [200], "the call waited while there was no controller"
    assert platform.asleep("night").since > since
    assert platform.stack.terminate() == 0
    platform.stack.up("--keep-engines")
    time.sleep(0.5)
    assert platform.stack.state("night") is EndpointState.SLEEPING


def test_a_stopped_endpoint_is_not_woken(platform: Platform):
    platform.endpoint("off")
    platform.stack.client.stop("off")
    platform.stack.client.wait_stopped("off")
    wait_until(lambda: error(platform.call("off")) if platform.call("off").status_code != 200 else None)
    assert error(platform.call("off")) == (503, "no_endpoint")
    assert platform.stack.state("off") is EndpointState.STOPPED


def test_starting_or_applying_a_sleeping_endpoint_wakes_it(platform: Platform):
    spec = platform.endpoint("asked").spec
    platform.asleep("asked")
    platform.stack.client.apply(spec)
    assert platform.stack.client.wait_ready("asked", 60).url
    platform.asleep("asked")
    platform.stack.client.start("asked")
    assert platform.stack.client.wait_ready("asked", 60).url


def test_a_route_follows_an_engine_to_its_new_port(platform: Platform):
    before = platform.endpoint("mover", cooldown_s=300)
    platform.stack.client.restart("mover")
    after = platform.stack.client.wait_ready("mover", 60)
    assert after.url != before.url
    wait_until(lambda: platform.call("mover").status_code == 200)
    route = platform.gateway.routes.get("mover")
    assert route is not None
    assert route.targets[0].url == before.url, "the document did not change"
    live = json.loads((platform.stack.home / "controller" / "live.json").read_text())
    assert [e["urls"] for e in live if e["name"] == "mover"] == [[after.url]]
