"""Fixtures of the services' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.backend import FakeBackend
from tests.fakes.stack import Stack
from tests.services.gateway_process import ALIAS, Gateway, target


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A home and its controller program, not started yet; every process of it is ended after the test."""
    stack = Stack(tmp_path)
    yield stack
    stack.down()


@pytest.fixture(scope="session")
def backends() -> Iterator[tuple[FakeBackend, FakeBackend]]:
    with FakeBackend("alpha") as alpha, FakeBackend("beta") as beta:
        yield alpha, beta


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, backends: tuple[FakeBackend, FakeBackend]) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway"))
    running.wait_ready()
    alpha, beta = backends
    running.put(ALIAS, target(alpha), target(beta, "preview"), target(beta, "shadow", name="dark", weight=50))
    running.put("acme/new", target(beta, "preview"))
    running.put("acme/dark", target(beta, "shadow", name="dark"))
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def alpha(backends: tuple[FakeBackend, FakeBackend]) -> Iterator[FakeBackend]:
    yield backends[0]
    engine = backends[0]
    engine.fail_status, engine.fail_message, engine.break_stream_after, engine.token_delay_s = None, "", None, 0.0
    engine.hold_s, engine.most_at_once, engine.break_answers, engine.calls_tools = 0.0, 0, False, ()
