"""Manifests as YAML, each notable field below a comment that says why it is there."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from modelops_dagster.domain.kubernetes.reasons import reason

# what YAML reads as it is written; everything else is quoted
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./@-]|:(?=[A-Za-z0-9/]))*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def as_yaml(objects: Sequence[dict[str, Any]], *, reasons: bool = True) -> str:
    """The objects as one YAML stream; each reason is given once, where it is first needed."""
    said: set[str] = set()
    documents = ("\n".join(_mapping(item, str(item["kind"]), (), 0, said if reasons else None)) for item in objects)
    return "---\n".join(f"{document}\n" for document in documents)


def _mapping(
    value: dict[str, Any], kind: str, path: tuple[str, ...], depth: int, said: set[str] | None
) -> Iterator[str]:
    # an entry of a list is known by its name: volumes.scratch.emptyDir
    named = (*path, value["name"]) if isinstance(value.get("name"), str) and path else path
    for key, item in value.items():
        here = (*named, key)
        why = reason(kind, (*path, key)) or reason(kind, here)
        if said is not None and why is not None and why not in said:
            said.add(why)
            yield f"{'  ' * depth}# {why}"
        yield from _entry(f"{'  ' * depth}{_scalar(key)}:", item, kind, (*path, key), depth, said)


def _entry(head: str, item: Any, kind: str, path: tuple[str, ...], depth: int, said: set[str] | None) -> Iterator[str]:
    if isinstance(item, dict) and item:
        yield head
        yield from _mapping(item, kind, path, depth + 1, said)
    elif isinstance(item, list) and item:
        yield head
        for element in item:
            yield from _element(element, kind, path, depth, said)
    else:
        yield f"{head} {_scalar(item)}"


def _element(element: Any, kind: str, path: tuple[str, ...], depth: int, said: set[str] | None) -> Iterator[str]:
    indent = "  " * depth
    if not isinstance(element, dict) or not element:
        yield f"{indent}- {_scalar(element)}"
        return
    dashed = False
    for line in _mapping(element, kind, path, depth + 1, said):
        if dashed or line.lstrip().startswith("#"):
            yield line
        else:
            yield f"{indent}- {line[len(indent) + 2 :]}"
            dashed = True


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    if isinstance(value, str) and '"' in value and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value, ensure_ascii=False)
