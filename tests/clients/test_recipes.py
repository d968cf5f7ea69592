"""Recipes from a folder and over HTTP, and what they come to for an engine that can be asked."""

import http.server
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.recipes import Recipes, overlays_for
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.errors import InvalidSpec
from tests.clients.test_own_engines import asked, own, pip_home
from tests.fakes.threads import http_server

__all__ = ["asked", "own", "pip_home"]

RECIPE = """
model:
  model_id: acme/Odd-7B
  base_args: ["--seats", "4", "--turbo"]
  base_env: {VLLM_ODD: "1"}
"""
RUNGS = (Rung(engine="tiny"), Rung(engine="tiny", variant="loud"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "models" / "Acme").mkdir(parents=True)
    (tmp_path / "recipes" / "models" / "Acme" / "Odd-7B.yaml").write_text(RECIPE)
    return tmp_path / "recipes"


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http_server(handler) as url:
        yield f"{url}/"


@pytest.fixture
def taking(asked: EngineRegistry, pip_home: Path) -> EngineRegistry:
    path = pip_home / "engines" / "tiny" / "engine.yaml"
    path.write_text(path.read_text() + "takes_recipes: true\n")
    return asked


def test_the_organisation_is_found_in_any_case(folder: Path, url: str):
    for source in (str(folder), url):
        found = Recipes(source).find("acme/Odd-7B")
        assert found is not None
        assert found.arguments == ("--seats", "4", "--turbo")
        assert Recipes(source).find("acme/other") is None
        assert Recipes(source).find("other/odd-7b") is None
    assert Recipes("").find("acme/Odd-7B") is None


def test_a_source_that_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidSpec, match="there is no folder models"):
        Recipes(str(tmp_path)).find("acme/odd")
    with pytest.raises(InvalidSpec, match="does not answer"):
        Recipes("http://127.0.0.1:9").find("acme/odd")


def test_a_recipe_reaches_the_rungs_that_take_it(taking: EngineRegistry, folder: Path):
    overlays = overlays_for("acme/odd-7b", RUNGS, taking, Recipes(str(folder)))
    assert overlays["tiny"].engine_args == ("--seats", "4")
    assert overlays["tiny"].engine_environment == {"VLLM_ODD": "1"}
    assert any("no argument --turbo" in note for note in overlays["tiny"].notes)
    assert overlays_for("acme/other", RUNGS, taking, Recipes(str(folder))) == {}


def test_an_engine_that_takes_no_recipes_gets_none(asked: EngineRegistry, folder: Path):
    assert overlays_for("acme/odd-7b", RUNGS, asked, Recipes(str(folder))) == {}


def test_a_recipe_that_cannot_be_used_is_told_and_stops_nothing(taking: EngineRegistry, folder: Path):
    (folder / "models" / "Acme" / "Odd-7B.yaml").write_text("model: [")
    overlays = overlays_for("acme/odd-7b", RUNGS, taking, Recipes(str(folder)))
    assert overlays["tiny"].engine_args == ()
    assert "no recipe was used" in overlays["tiny"].notes[0]


def test_the_operators_arguments_come_last(taking: EngineRegistry, folder: Path, pip_home: Path):
    (pip_home / "own").mkdir()
    (pip_home / "own" / "models.yaml").write_text(
        "overrides: [{repo_id: 'acme/*', engine: tiny, engine_args: [--seats, '2']}]\n"
    )
    overlay = overlays_for("acme/odd-7b", RUNGS, taking, Recipes(str(folder)))["tiny"]
    assert overlay.engine_args == ("--seats", "4", "--seats", "2")
    assert overlay.notes[-1] == "models.yaml: --seats 2"
