"""What holds for every test: a busy machine makes none of them fail, and those for GPUs say why they do not run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import has_gpu
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.brokers import QueueServer, rabbitmq_server, redis_server
from tests.fakes.hub import running_hub

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests marked gpu, on a machine with an NVIDIA GPU")
    parser.addoption(
        "--kubeconfig",
        type=Path,
        default=None,
        help="of a cluster that the suite of endpoint behaviour may use as well",
    )
    parser.addoption(
        "--scripted-nodes",
        action="store_true",
        help="the cluster of --kubeconfig is a control plane without nodes: give it some, on which no container runs",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = None
    if not config.getoption("--gpu"):
        reason = "for NVIDIA GPUs: run `pytest --gpu` on a machine that has one"
    elif not has_gpu():
        reason = "for NVIDIA GPUs, and this machine shows none"
    if reason is not None:
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason=f"{item.name} is {reason}"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub with nothing in it, on loopback."""
    (tmp_path / "hub").mkdir()
    with running_hub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Where checkpoints are kept, with none in it."""
    return CheckpointStore(tmp_path / "checkpoints")


@pytest.fixture(scope="session")
def redis_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueServer]:
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session", params=["redis", "rabbitmq"])
def queue_server(request: pytest.FixtureRequest) -> QueueServer:
    """A real server of queues, one after the other."""
    found: QueueServer = request.getfixturevalue(f"{request.param}_queue")
    return found
