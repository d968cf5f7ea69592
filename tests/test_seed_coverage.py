"""`docs/seed-coverage.md` names commands, routes, methods, fields and files; each of them exists."""

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.routing import Route

from modelops_dagster.cli.main import COMMANDS
from modelops_dagster.client import ModelOpsClient
from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.monitoring import EndpointMetrics
from modelops_dagster.services.controller.routers.pages import pages_router
from tests.fakes.api import serving

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "seed-coverage.md"
ROW = re.compile(r"\|(?P<feature>[^|]+)\|(?P<how>[^|]+)\|(?P<by>[^|]+)\|")
ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S*)")
MODELS: dict[str, type[BaseModel]] = {"spec": EndpointSpec, "metrics": EndpointMetrics, "status": EndpointStatus}


def rows() -> list[tuple[str, str]]:
    """(feature, reference) of every reference of every row."""
    found = [ROW.fullmatch(line.strip()) for line in PAGE.read_text().splitlines()]
    told = [(m["feature"].strip(), m["by"]) for m in found if m and m["feature"].strip() not in ("feature", "---")]
    return [(feature, reference) for feature, by in told for reference in re.findall(r"`([^`]+)`", by)]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    with serving(tmp_path_factory.mktemp("home")) as client:
        return routes_of(client)


def routes_of(client: TestClient) -> set[tuple[str, str]]:
    app = client.app
    assert isinstance(app, FastAPI)
    listed = {(m.upper(), path) for path, methods in app.openapi()["paths"].items() for m in methods}
    served = (r for r in (*app.routes, *pages_router().routes) if isinstance(r, Route))
    pages = {(m, r.path) for r in served for m in r.methods or ()}
    return {(method, path.replace(":path}", "}")) for method, path in listed | pages}


@cache
def command(words: tuple[str, ...]) -> click.Command | None:
    if words[0] not in COMMANDS:
        return None
    found: click.Command | None = importlib.import_module(f"modelops_dagster.cli.{COMMANDS[words[0]][0]}").command
    for word in words[1:]:
        found = found.commands.get(word) if isinstance(found, click.Group) else None
    return found


def command_problem(reference: str) -> str | None:
    words = reference.split()[1:]
    path = tuple(w for w in words if not w.startswith("-"))
    found = command(path)
    if found is None or isinstance(found, click.Group):
        return f"there is no command {' '.join(path)}"
    options = {name for p in found.params for name in (*p.opts, *p.secondary_opts)}
    missing = [w for w in words if w.startswith("-") and w not in options]
    return f"{' '.join(path)} has no option {', '.join(missing)}" if missing else None


def field_problem(model: type[BaseModel], steps: list[str]) -> str | None:
    """Whether the path of names leads through the model's fields, and the parts of their types."""
    at: list[type[BaseModel]] = [model]
    for step in steps:
        fields = [m.model_fields[step] for m in at if step in m.model_fields]
        if not fields:
            return f"{'.'.join(steps)} is no field: {step} is missing"
        at = [m for field in fields for m in models_in(field.annotation)]
    return None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in get_args(annotation) for m in models_in(argument)]


def document_problem(name: str) -> str | None:
    known = EndpointDocument.model_json_schema()["properties"]
    return None if name in known else f"{name} is not taken in a document"


def file_problem(reference: str) -> str | None:
    name, _, anchor = reference.partition("#")
    if not (ROOT / name).is_file():
        return f"there is no file {name}"
    headings = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(), re.MULTILINE) if anchor else []
    known = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return None if not anchor or anchor in known else f"{name} has no heading {anchor}"


def problem(reference: str, routes: set[tuple[str, str]]) -> str | None:
    """What is wrong with a reference; None when what it names exists."""
    kind, _, rest = reference.partition(".")
    if reference.startswith("modelops "):
        return command_problem(reference)
    if route := ROUTE.fullmatch(reference):
        return None if route.groups() in routes else f"there is no route {reference}"
    if kind == "ModelOpsClient":
        return None if callable(getattr(ModelOpsClient, rest, None)) else f"the client has no method {rest}"
    if kind == "document":
        return document_problem(rest)
    return field_problem(MODELS[kind], rest.split(".")) if kind in MODELS else file_problem(reference)


def test_everything_the_page_names_exists(routes: set[tuple[str, str]]):
    wrong = [f"{feature}: {said}" for feature, ref in rows() if (said := problem(ref, routes))]
    assert not wrong, "\n".join(wrong)


def test_every_row_names_something_and_every_document_is_there():
    text = PAGE.read_text()
    lines = [line for line in text.splitlines() if line.startswith("|") and not re.match(r"\|(-|\s*feature)", line)]
    assert len(lines) >= 100
    assert not [line for line in lines if "`" not in line.split("|")[-2]]
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == 4


@pytest.mark.parametrize(
    "reference",
    [
        "modelops endpoints teleport",
        "modelops endpoints create --sideways",
        "modelops endpoints",
        "GET /v1/planets",
        "ModelOpsClient.teleport",
        "spec.colour",
        "spec.ports.udp",
        "metrics.mood",
        "document.colour",
        "docs/none.md",
        "docs/gateway.md#none",
    ],
)
def test_a_name_that_does_not_exist_is_found(reference: str, routes: set[tuple[str, str]]):
    assert problem(reference, routes)
