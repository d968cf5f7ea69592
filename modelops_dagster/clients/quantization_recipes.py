"""Recipes, calibration texts and recovery policies as files under `quantization/`."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.quantization import LANE_RECIPES, Recipe
from modelops_dagster.domain.recovery import RecoveryPolicy

POLICIES = "recovery"
_NAME = re.compile(r"[a-z0-9][A-Za-z0-9_-]*")
Document = TypeVar("Document", Recipe, RecoveryPolicy)


class RecipeFolder:
    """A folder of recipes.

    Args:
        root: the folder.
        overrides: `lane=recipe` for each lane that shall not use its usual recipe.
    """

    def __init__(self, root: Path, overrides: Sequence[str] = ()) -> None:
        self.root = root
        self._by_lane = {**LANE_RECIPES, **_lane_recipes(overrides)}

    def recipe(self, name: str) -> Recipe:
        """Raises: InvalidSpec when there is none of that name, or its file does not hold."""
        return _load(self.root, name, Recipe)

    def of_lane(self, lane: str) -> Recipe:
        """The recipe that a lane's checkpoint is made by."""
        return self.recipe(self._by_lane[lane])

    def by_lane(self) -> Mapping[str, Recipe]:
        return {lane: self.recipe(name) for lane, name in self._by_lane.items()}

    def policy(self, name: str) -> RecoveryPolicy:
        """Raises: InvalidSpec when there is none of that name, or its file does not hold."""
        return _load(self.root / POLICIES, name, RecoveryPolicy)

    def texts(self, file: str) -> tuple[Path, str]:
        """A file of texts and the `sha256:…` of its content.

        Raises:
            InvalidSpec: it is not there.
        """
        path = self.root / file
        if not path.is_file():
            raise InvalidSpec(f"{path} is not there; put the texts there, or name another file.", field="file")
        return path, f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def _lane_recipes(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        lane, _, recipe = pair.partition("=")
        if lane not in LANE_RECIPES or not recipe:
            lanes = ", ".join(LANE_RECIPES)
            raise InvalidSpec(f"{pair!r} is not lane=recipe; the lanes are {lanes}.", field="lane_recipes")
        found[lane] = recipe
    return found


def _load(folder: Path, name: str, kind: type[Document]) -> Document:
    path = folder / f"{name}.yaml"
    if not _NAME.fullmatch(name) or not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.yaml"))) or "none"
        raise InvalidSpec(f"there is no {kind.__name__} {name!r} in {folder}; there are: {there}.", field="name")
    try:
        document = kind.model_validate(read_yaml(path))
    except ValidationError as error:
        field, said = first_fault(error)
        raise InvalidSpec(f"{path}: {field + ': ' if field else ''}{said}.", field=field or None) from error
    if document.name != name:
        raise InvalidSpec(f"{path}: name is {document.name!r}; it has to be the file's, {name!r}.", field="name")
    return document
