"""Parts of a document that a person wrote: a mapping or a list where there has to be one, else one sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec


def part(document: Mapping[str, Any], name: str, before: str = "") -> Mapping[str, Any]:
    """The mapping under `name`, empty where there is nothing; `before` is where the document stands, with its dot.

    Raises:
        InvalidSpec: it is something else, or a key of it is no text.
    """
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"{before}{name} is {value!r}, not a mapping.", field=before + name)
    odd = next((key for key in value if not isinstance(key, str)), None)
    if odd is not None:
        raise InvalidSpec(f"{before}{name} has the key {odd!r}, which names no field.", field=before + name)
    return value


def entries(document: Mapping[str, Any], name: str, before: str = "") -> Sequence[Any]:
    """The list under `name`, empty where there is nothing.

    Raises:
        InvalidSpec: it is something else.
    """
    value = document.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidSpec(f"{before}{name} is {value!r}, not a list.", field=before + name)
    return value
