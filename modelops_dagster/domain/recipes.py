"""vLLM's public recipes: what its makers and the model's say a model should be started with.

Layout of the repository: `models/<org>/<name>.yaml`, of which only the fields read here are known.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from modelops_dagster.domain.capacity import PARALLEL_ARGUMENTS
from modelops_dagster.domain.endpoints import ENGINE_VARIABLE
from modelops_dagster.domain.engine_arguments import ArgumentCatalog, held
from modelops_dagster.domain.engines import EngineManifest, StartOverlay
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

# Features a client may count on; speculative decoding and the like are for a person to choose.
TAKEN_FEATURES = ("tool_calling", "reasoning")
# How a model is spread over devices is decided here, by what the machine has; code of a repository is never run.
NOT_TAKEN = {
    **dict.fromkeys(
        (
            *PARALLEL_ARGUMENTS,
            *("--enable-expert-parallel", "--gpu-memory-utilization", "--nnodes", "--node-rank", "--master-addr"),
        ),
        "how a model is spread over devices is decided by this platform",
    ),
    **dict.fromkeys(("--trust-remote-code",), "code of a repository is never run"),
    **dict.fromkeys(("--api-key", "--ssl-keyfile", "--ssl-certfile"), "who may ask is decided by the gateway"),
}


class Recipe(Value):
    """One model's entry."""

    source: str = Field(description="where it was read: a path or URL")
    min_vllm_version: str | None = None
    docker_image: str | None = Field(default=None, description="the image its authors used")
    arguments: tuple[str, ...] = Field(default=(), description="base arguments, then those of the features taken")
    environment: dict[str, str] = Field(default_factory=dict)


def parse_recipe(document: Any, source: str) -> Recipe:
    """The entry in a recipe file.

    Raises:
        InvalidSpec: the file has another shape.
    """
    if not isinstance(document, Mapping):
        raise InvalidSpec(f"The recipe {source} is no YAML mapping; see whether its layout changed.")
    model = document.get("model")
    fields: Mapping[str, Any] = {**document, **model} if isinstance(model, Mapping) else document
    features = fields.get("features") or {}
    taken = [features[name] for name in TAKEN_FEATURES if isinstance(features.get(name), Mapping)]
    image = fields.get("docker_image")
    if isinstance(image, Mapping):  # one per brand of GPU
        image = image.get("nvidia") or next(iter(image.values()), None)
    minimum = fields.get("min_vllm_version")
    return Recipe(
        source=source,
        min_vllm_version=None if minimum is None else str(minimum),
        docker_image=None if image is None else str(image),
        arguments=tuple(word for part in (fields, *taken) for word in _words(part, source)),
        environment={str(k): str(v) for k, v in (fields.get("base_env") or {}).items()},
    )


def _words(part: Mapping[str, Any], source: str) -> list[str]:
    given = part.get("base_args", part.get("args")) or []
    if isinstance(given, str):
        return shlex.split(given)
    if not isinstance(given, list):
        raise InvalidSpec(
            f"The recipe {source} has arguments that are no list: {given!r}; see whether its layout changed."
        )
    return [word for item in given for word in _spread(str(item))]


def _spread(item: str) -> list[str]:
    """`--flag value` written as one item is two words; a value that holds a space is one."""
    return item.split(" ", 1) if item.startswith("-") and " " in item and "=" not in item.split(" ", 1)[0] else [item]


def overlay_for(recipe: Recipe, manifest: EngineManifest, catalog: ArgumentCatalog) -> StartOverlay:
    """What of a recipe this engine is started with; every part that is not taken is told."""
    kept, dropped = held(catalog, recipe.arguments, manifest.command)
    arguments: list[str] = []
    told = [sentence.rstrip(".") for sentence in dropped]
    for flag, values in _grouped(kept):
        why = NOT_TAKEN.get(flag.partition("=")[0])
        if why:
            told.append(f"{flag}: {why}")
        else:
            arguments += [flag, *values]
    environment = {k: v for k, v in recipe.environment.items() if ENGINE_VARIABLE.fullmatch(k)}
    told += [f"{name}: not a variable an engine is given" for name in recipe.environment if name not in environment]
    notes = [f"recipe {recipe.source}: {' '.join(arguments) or 'no arguments'}"]
    if recipe.min_vllm_version and _older(manifest.version, recipe.min_vllm_version):
        notes.append(f"the recipe asks for vLLM {recipe.min_vllm_version} and this is {manifest.version}")
    if recipe.docker_image:
        notes.append(f"the recipe's image is {recipe.docker_image}")
    notes += [f"not taken: {line}" for line in told]
    return StartOverlay(engine_args=tuple(arguments), engine_environment=environment, notes=tuple(notes))


def merge_overlays(overlays: Sequence[StartOverlay]) -> StartOverlay:
    """One after the other; of a variable the last word counts."""
    return StartOverlay(
        engine_args=tuple(word for o in overlays for word in o.engine_args),
        engine_environment={k: v for o in overlays for k, v in o.engine_environment.items()},
        notes=tuple(note for o in overlays for note in o.notes),
    )


def _grouped(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if re.match(r"--?[A-Za-z]", word) or not groups:
            groups.append((word, []))
        else:
            groups[-1][1].append(word)
    return groups


def _older(version: str, minimum: str) -> bool:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"\d+", text.partition("+")[0])[:3])

    return numbers(version) < numbers(minimum)
