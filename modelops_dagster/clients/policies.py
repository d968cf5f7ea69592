"""Promotion policies as files: `eval_datasets/policies/<name>.yaml`, read strictly."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.complaints import plain
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.policies import Policy, policy_schema

SCHEMA_NAME = "policy.schema.json"
POLICY_NAME = re.compile(r"[a-z0-9][A-Za-z0-9_-]*")


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML, but a key given twice is an error: the second would silently move a bar."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def policy_names(folder: Path) -> list[str]:
    """Names of the policies in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_policy(folder: Path, name: str) -> Policy:
    """Read one policy.

    Raises:
        InvalidSpec: there is no such policy, or its file does not hold; names the file and the field.
    """
    path = folder / f"{name}.yaml"
    if not POLICY_NAME.fullmatch(name) or not path.is_file():
        there = ", ".join(policy_names(folder)) or "none"
        raise InvalidSpec(f"there is no policy {name!r} in {folder}; there are: {there}.", field="policy")
    document = read_yaml(path, loader=_StrictLoader)
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} holds no policy: write name, version, description and criteria.")
    try:
        policy = Policy.model_validate(document)
    except ValidationError as error:
        raise _field_error(path, error) from error
    if policy.name != name:
        raise InvalidSpec(f"{path}: name is {policy.name!r}; it has to be the file's, {name!r}.", field="name")
    return policy


def write_policy_schema(folder: Path) -> Path:
    """Write the JSON schema that editors complete and check policies with."""
    path = folder / SCHEMA_NAME
    path.write_text(json.dumps(policy_schema(), indent=2) + "\n", encoding="utf-8")
    return path


def _field_error(path: Path, error: ValidationError) -> InvalidSpec:
    first, more = error.errors()[0], error.error_count() - 1
    field = ".".join(str(step) for step in first["loc"])
    said = plain(first)
    was = "" if first["type"] in ("missing", "value_error", "extra_forbidden") else f", not {first['input']!r}"
    others = f" ({more} more like it)" if more else ""
    return InvalidSpec(f"{path}: {field + ': ' if field else ''}{said}{was}{others}.", field=field or None)
