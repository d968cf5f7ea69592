"""`modelops endpoints export` of one system and `apply` on an empty one make the same state."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.gateway import Grant, RouteTarget, with_targets
from modelops_dagster.domain.rollout import start_canary
from tests.fakes.checkpoints import stored
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.stack import Stack

COMMIT = "c" * 40
AT = datetime(2026, 1, 2, tzinfo=UTC)


def home(folder: Path) -> Stack:
    """A controller with one checkpoint in its store, at a place of its own."""
    folder.mkdir()
    stack = Stack(folder).up()
    stored(stack.home / "checkpoints", COMMIT)
    return stack


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = home(tmp_path_factory.mktemp("homes") / "first")
    yield stack
    stack.down()


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Stack]:
    stack = home(tmp_path / "second")
    yield stack
    stack.down()


@pytest.fixture
def theirs() -> Iterator[OpenAIServer]:
    with OpenAIServer().in_thread() as server:
        yield server


def modelops(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.modelops("endpoints", *arguments, MODELOPS_GATEWAY_PORT="9")


def populated(stack: Stack, theirs: OpenAIServer, folder: Path) -> None:
    """A running endpoint, a stopped one, one of somebody else's; a route with a canary; a hosted model."""
    small = {"model": "acme/small", "engine": "fake"}
    external = {"deployment": {"type": "none"}, "target": {"api_endpoint": {"url": theirs.url, "model_id": MODEL}}}
    specs = [{"name": "one", "usd_per_hour": 2.5, **small}, {"name": "two", **small}, {"name": "theirs", **external}]
    path = folder / "specs.yaml"
    path.write_text(yaml.safe_dump_all(specs))
    assert modelops(stack, "create", "-f", str(path)).returncode == 0
    stack.client.stop("two")
    stack.client.wait_stopped("two")
    urls = {s.spec.name: s.url for s in stack.client.list()}
    grant = Grant(verdict_id="v1", at=AT)
    one, canary = (
        RouteTarget(endpoint=n, url=str(urls[n]), served_model_name=n, commit_hash=COMMIT, grant=grant)
        for n in ("one", "theirs")
    )
    routes = RouteStore(stack.home / "gateway")
    stable = with_targets(None, "acme/small", [one], at=AT, verdict_id="v1", reason="first")
    stable = stable.model_copy(update={"sticky": True, "timeout_s": 30.0})
    routes.put(start_canary(stable, canary, 5, Bounds(), at=AT), 0)
    hosted = {"smart": {"model": "openai/gpt-4o-mini", "api_key_name": "OPENAI_API_KEY"}}
    (stack.home / "hosted_models.yaml").write_text(yaml.safe_dump(hosted))


def test_the_same_state_on_an_empty_home(first: Stack, second: Stack, theirs: OpenAIServer, tmp_path: Path):
    populated(first, theirs, tmp_path)
    exported = modelops(first, "export")
    assert exported.returncode == 0, exported.stderr
    documents = list(yaml.safe_load_all(exported.stdout))
    assert [d["kind"] for d in documents] == ["endpoint", "endpoint", "endpoint", "hosted_models", "route"]
    assert str(first.home) not in exported.stdout, "nothing of one machine's paths"
    assert "127.0.0.1:" + str(first.port) not in exported.stdout

    path = tmp_path / "state.yaml"
    path.write_text(exported.stdout)
    done = modelops(second, "apply", "-f", str(path))
    assert done.returncode == 0, done.stderr
    assert "endpoint one: created" in done.stdout
    assert "route acme/small: created" in done.stdout
    assert second.client.logs("two") == "", "what is to be Stopped is never started"
    again = modelops(second, "export")
    assert list(yaml.safe_load_all(again.stdout)) == documents

    route = RouteStore(second.home / "gateway").get("acme/small")
    status = second.client.get("one")
    assert route is not None
    assert status is not None
    assert route.targets[0].url == status.url
    assert route.canary is not None
    assert route.canary.endpoint == "theirs"

    repeated = json.loads(modelops(second, "apply", "-f", str(path), "--json").stdout)
    assert {item["done"] for item in repeated} == {"unchanged"}


def test_apply_takes_specs_of_people_and_says_what_failed(first: Stack, tmp_path: Path):
    path = tmp_path / "spec.yaml"
    broken = {"name": "broken", "model": "acme/small", "engine": "fake", "engine_args": ["--die"]}
    path.write_text(yaml.safe_dump(broken))
    done = modelops(first, "apply", "-f", str(path))
    assert done.returncode == 1
    assert "endpoint broken: created, and failed: Engine fake ended" in done.stdout


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"kind": "planet"}, "planet"),
        ({"kind": "route", "route": {"alias": "a b", "targets": []}}, "is not an alias"),
        ({"kind": "route", "route": {"alias": "a", "version": 3, "targets": []}}, "version is of one installation"),
        ({"kind": "endpoint", "spec": {"name": "some"}}, "model is missing"),
        ({"kind": "hosted_models", "models": {"a": {"model": "b"}}}, "is not provider/model"),
        (
            {
                "kind": "route",
                "route": {
                    "alias": "a",
                    "targets": [{"endpoint": "e", "served_model_name": "m", "commit_hash": "c", "url": "http://h/v1"}],
                },
            },
            "no verdict passed 'e'",
        ),
    ],
)
def test_mistakes_are_one_sentence(first: Stack, tmp_path: Path, document: dict[str, object], said: str):
    path = tmp_path / "state.yaml"
    path.write_text(yaml.safe_dump(document))
    done = modelops(first, "apply", "-f", str(path))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
