"""Reading vLLM's recipes from a copy of its repository, and what a model's rungs are started with because of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import yaml

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.engines import Rung, StartOverlay
from modelops_dagster.domain.errors import EngineFailed, InvalidSpec
from modelops_dagster.domain.recipes import Recipe, merge_overlays, overlay_for, parse_recipe

TIMEOUT_S = 10.0


class Recipes:
    """The recipes under `source`: a folder, or the base URL of one; empty: there are none."""

    def __init__(self, source: str) -> None:
        self._source = source.rstrip("/")

    def find(self, repo_id: str) -> Recipe | None:
        """The entry of a model. The organisation's spelling may differ from the Hub's.

        Raises:
            InvalidSpec: the entry, or the source itself, cannot be read.
        """
        if not self._source:
            return None
        found = self._over_http(repo_id) if "://" in self._source else self._in_folder(repo_id)
        if found is None:
            return None
        text, where = found
        try:
            return parse_recipe(yaml.safe_load(text), where)
        except (yaml.YAMLError, ValueError, AttributeError) as error:
            raise InvalidSpec(f"The recipe {where} cannot be read ({error}); correct or remove it.") from error

    def _in_folder(self, repo_id: str) -> tuple[str, str] | None:
        root = Path(self._source) / "models"
        if not root.is_dir():
            raise InvalidSpec(f"MODELOPS_RECIPES={self._source}: there is no folder models in it.", field="recipes")
        org, _, name = repo_id.lower().partition("/")
        for folder in root.iterdir():
            if folder.name.lower() != org or not folder.is_dir():
                continue
            for path in folder.iterdir():
                if path.name.lower() == f"{name}.yaml":
                    return path.read_text(), f"models/{folder.name}/{path.name}"
        return None

    def _over_http(self, repo_id: str) -> tuple[str, str] | None:
        org, _, name = repo_id.partition("/")
        # no listing over HTTP: the spellings that are in use
        for spelled in dict.fromkeys((org, org.lower(), org[:1].upper() + org[1:])):
            url = f"{self._source}/models/{spelled}/{name}.yaml"
            try:
                answer = httpx.get(url, timeout=TIMEOUT_S, follow_redirects=False)
            except httpx.HTTPError as error:
                raise InvalidSpec(f"MODELOPS_RECIPES: {url} does not answer ({error}).", field="recipes") from error
            if answer.status_code == 200:
                return answer.text, url
            if answer.status_code != 404:
                raise InvalidSpec(f"MODELOPS_RECIPES: {url} answered {answer.status_code}.", field="recipes")
        return None


def overlays_for(
    repo_id: str, rungs: Sequence[Rung], registry: EngineRegistry, recipes: Recipes
) -> Mapping[str, StartOverlay]:
    """By engine, what the operator and the model's recipe add to its start command.

    A recipe is advice: one that cannot be read or used is noted and otherwise ignored.
    """
    override = registry.override(repo_id)
    found: dict[str, StartOverlay] = {}
    for engine in dict.fromkeys(rung.engine for rung in rungs):
        parts = [_from_recipe(repo_id, engine, registry, recipes)]
        if override is not None and override.engine == engine:
            args, variables = override.engine_args, override.engine_environment
            notes = (f"models.yaml: {' '.join(args) or engine}",)
            parts.append(StartOverlay(engine_args=args, engine_environment=variables, notes=notes))
        merged = merge_overlays([part for part in parts if part is not None])
        if merged != StartOverlay():
            found[engine] = merged
    return found


def _from_recipe(repo_id: str, engine: str, registry: EngineRegistry, recipes: Recipes) -> StartOverlay | None:
    manifest = registry.manifest(engine)
    if not manifest.takes_recipes or registry.environment(engine) is None:
        return None
    try:
        recipe = recipes.find(repo_id)
        catalog = None if recipe is None else registry.arguments(engine)
        if recipe is None or catalog is None:
            return None
        overlay = overlay_for(recipe, manifest, catalog)
        registry.check_arguments(engine, overlay.engine_args)
    except (InvalidSpec, EngineFailed) as error:
        return StartOverlay(notes=(f"no recipe was used: {error.sentence}",))
    return overlay
