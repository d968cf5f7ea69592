"""The page about endpoints has the routes that there are, and no others."""

import re
from pathlib import Path
from typing import Any

import jsonschema

from tests.fakes.api import serving

PAGE = Path(__file__).resolve().parents[2] / "docs" / "endpoints.md"
UNTOLD = {("get", "/health"), ("post", "/v1/hub/webhook")}


def told() -> set[tuple[str, str]]:
    table = re.search(r"<!-- routes -->\n(.*?)<!-- /routes -->", PAGE.read_text(), re.DOTALL)
    assert table is not None
    found = set()
    for paths, methods in re.findall(r"^\| (`/v1.*?`) \| (.*) \|$", table[1], re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", paths)
        base = first if first.endswith("}") else first.rpartition("/")[0]
        whole = [first, *(o if o.startswith("/v1") else base + o for o in others)]
        names = re.findall(r"\b(GET|POST|PUT|PATCH|DELETE)\b", methods)
        found |= {(name.lower(), path) for path in whole for name in names}
    return found


def test_the_routes_that_are_told_are_those_there_are(tmp_path: Path):
    with serving(tmp_path) as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert told() == {(method, path) for path, methods in paths.items() for method in methods} - UNTOLD


def test_every_body_has_an_example_that_its_own_schema_takes(tmp_path: Path):
    with serving(tmp_path) as client:
        document = client.get("/openapi.json").json()
    checked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            schema: dict[str, Any] = body["schema"]
            named = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
            examples = [e["value"] for e in body.get("examples", {}).values()] or named.get("examples", [])
            assert examples, f"{method} {path} has no example"
            for example in examples:
                jsonschema.validate(example, {**schema, "components": document["components"]})
                checked += 1
    assert checked > 9
