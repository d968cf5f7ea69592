"""Rehearsals under a real controller and a real Hub server, with engines that are small programs."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from modelops_dagster.clients.rehearsal import Rehearsing
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.services.hub_server import HubServer
from modelops_dagster.settings import Settings
from tests.e2e.scenery import install_engine, write_engine, write_model
from tests.fakes.hub import client, downloads, released
from tests.fakes.zoo import Zoo, zoo

UNSUPPORTED = "ValueError: Model architectures ['LlamaForCausalLM'] are not supported for now"
MADE_UP = {"made_up_weights_args": ["--load-s", "0.2"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("platform")
    engines, cache = folder / "engines", folder / "cache"
    # refuses whatever is called acme/new
    write_engine(engines, "vllm-cpu", "--fail-line", UNSUPPORTED, "--fail-for", "acme/new", **MADE_UP)
    write_engine(engines, "transformers", **MADE_UP)
    write_engine(engines, "slow", "--hang", **MADE_UP)
    for name in ("vllm-cpu", "transformers", "slow"):
        install_engine(engines, cache, name)
    environ = {"MODELOPS_HOME": str(folder), "MODELOPS_ENGINES": str(engines), "MODELOPS_CACHE": str(cache)}
    with zoo(folder / "controller", Settings.load(environ)) as opened:
        yield opened


class Scene:
    """One release, and the rehearsal of it."""

    def __init__(self, place: Zoo, hub: HubServer, folder: Path, repo_id: str) -> None:
        self.place, self.hub, self.folder = place, hub, folder / "small"
        self.release: Release = released(hub, write_model(folder / "model"), repo_id)
        self.said: list[str] = []

    def hold(
        self, until: Callable[[Rehearsing], bool], *, engines: Sequence[str] = (), timeout_s: float = 60
    ) -> Rehearsal:
        """Rehearse while `until` is false, as the fetch of the weights would."""
        registry = self.place.registry
        rehearsing = Rehearsing(
            self.release,
            client(self.hub),
            self.place.client,
            registry,
            self.folder,
            [Rung(engine=name) for name in engines] or registry.rungs("cpu"),
            registry.installed_versions(),
            max_context=512,
            timeout_s=timeout_s,
            progress=self.said.append,
        )
        with rehearsing:
            deadline = time.monotonic() + 60
            while not until(rehearsing):
                assert time.monotonic() < deadline, rehearsing.result()
                time.sleep(0.02)
        return rehearsing.result()


@pytest.fixture
def scene(place: Zoo, hub: HubServer, tmp_path: Path) -> Iterator[Callable[[str], Scene]]:
    yield lambda repo_id: Scene(place, hub, tmp_path, repo_id)
    assert [s.spec.name for s in place.client.list() if "rehearsal" in s.spec.name] == []
    assert not (tmp_path / "small").exists()


def has_ended(rehearsing: Rehearsing) -> bool:
    found = rehearsing.result()
    return bool(found.note) or any(r.reason is None for r in found.results)


def test_it_ends_at_the_first_rung_that_loads_and_fetches_no_weight(scene: Callable[[str], Scene]):
    one = scene("acme/known")
    found = one.hold(has_ended)
    assert [(r.rung, r.reason) for r in found.results] == [("vllm-cpu", None)]
    assert found.results[0].engine_version == one.place.registry.installed_versions()["vllm-cpu"]
    assert (found.note, found.revision) == ("", one.release.revision)
    fetched = downloads(one.hub)
    assert any("config.json" in line for line in fetched)
    assert not any("safetensors" in line for line in fetched)


def test_what_a_rung_is_left_for_is_known_before_the_weights_are_there(scene: Callable[[str], Scene]):
    one = scene("acme/new")
    found = one.hold(has_ended)
    assert [(r.rung, r.reason) for r in found.results] == [
        ("vllm-cpu", "unsupported_architecture"),
        ("vllm-cpu:transformers-backend", "unsupported_architecture"),
        ("transformers", None),
    ]
    assert found.results[0].detail == "With made-up weights: This engine does not support the architecture " + (
        "'LlamaForCausalLM'."
    )
    rungs, versions = one.place.registry.rungs("cpu"), one.place.registry.installed_versions()
    assert {rung.label for rung in found.ruled_out(rungs, versions)} == {r.rung for r in found.results[:2]}


def test_weights_that_come_sooner_end_it(scene: Callable[[str], Scene]):
    one = scene("acme/known")
    begun = time.monotonic()
    found = one.hold(lambda rehearsing: bool(one.said))
    assert found.results == ()
    assert found.note == "The weights were here before vllm-cpu had started."
    assert time.monotonic() - begun < 60


def test_an_engine_that_never_gets_ready_is_given_up(scene: Callable[[str], Scene]):
    one = scene("acme/known")
    found = one.hold(lambda rehearsing: bool(rehearsing.result().results), engines=["slow"], timeout_s=1)
    assert [(r.rung, r.reason) for r in found.results] == [("slow", "timeout")]


def test_trouble_of_its_own_is_a_note_and_no_error(scene: Callable[[str], Scene]):
    one = scene("acme/known")
    one.hub.faults.only, one.hub.faults.corrupt = "tokenizer.json", 1
    found = one.hold(lambda rehearsing: bool(rehearsing.result().note))
    assert found.results == ()
    assert found.note.startswith("It broke off: tokenizer.json of acme/known@")
