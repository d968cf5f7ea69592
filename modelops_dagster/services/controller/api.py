"""The controller's REST API: thin routes over the wishes, one shape for every error, a bearer key on everything."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from modelops_dagster import __version__
from modelops_dagster.clients.endpoints import Launcher
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus, LogChunk
from modelops_dagster.domain.engines import EngineStatus
from modelops_dagster.domain.errors import Conflict, DiskFull, InvalidSpec, ModelOpsError, NoSuchEndpoint, UserError
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.hub_webhook import WEBHOOK_PATH, HubPush, add_webhook_route
from modelops_dagster.services.controller.reconcile import Controller

SERVICE = "modelops-controller"
OPEN_PATHS = frozenset({"/health", "/docs", "/openapi.json"})  # they say nothing about endpoints
# asks for a secret of its own, since the Hub does not know the controller's key
KEYLESS_PATHS = OPEN_PATHS | {WEBHOOK_PATH}
MAX_BODY_BYTES = 1 << 20

log = logging.getLogger("modelops.controller")


class Health(Value):
    """Who answers here: a program that only says 200 is not taken for a controller."""

    service: str
    home: str
    version: str


class EndpointList(Value):
    endpoints: tuple[EndpointStatus, ...]


class EngineList(Value):
    engines: tuple[EngineStatus, ...]


class ErrorDetail(Value):
    code: str
    message: str
    field: str | None = None


class ErrorBody(Value):
    """Every answer that is not a success."""

    error: ErrorDetail


def _error(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(code=code, message=message, field=field))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


class BearerKey:
    """Refuses a request without the key before a byte of its body is read."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in KEYLESS_PATHS:
            headers = dict(scope["headers"])
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                message = "This needs the controller's key: send `Authorization: Bearer <key>`."
                await _error(401, "unauthorized", message)(scope, receive, send)
                return
            length = headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES:
                message = f"The body is larger than {MAX_BODY_BYTES} bytes; a spec is far smaller."
                await _error(413, "too_large", message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(
    controller: Controller,
    launcher: Launcher,
    *,
    token: str,
    home: str,
    keep_engines: Callable[[], bool],
    push: HubPush | None = None,
) -> FastAPI:
    """The application. It opens the controller when it starts and closes it when it ends.

    Args:
        keep_engines: asked at the end whether engines go on without the controller.
        push: what to do when the Hub pushes; None: it is not listened to.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await controller.open()
        yield
        await controller.close(keep_engines=keep_engines())

    app = FastAPI(
        title="modelops controller",
        version=__version__,
        summary="Endpoints: what is wanted, and how it stands.",
        lifespan=lifespan,
        redoc_url=None,
        responses={"4XX": {"model": ErrorBody, "description": "what was wrong, and the field"}},
    )
    app.add_middleware(BearerKey, token=token)
    _add_error_handlers(app)
    key = [Depends(HTTPBearer(auto_error=False))]  # for the OpenAPI document; BearerKey is what refuses

    @app.get("/health", summary="Who answers here")
    async def health() -> Health:
        return Health(service=SERVICE, home=home, version=__version__)

    @app.get("/v1/engines", dependencies=key, summary="Engines of this machine")
    async def engines() -> EngineList:
        return EngineList(engines=await asyncio.to_thread(_engines, launcher))

    _add_endpoint_routes(app, controller, launcher, key)
    if push is not None:
        add_webhook_route(app, push)
    return app


def _engines(launcher: Launcher) -> tuple[EngineStatus, ...]:
    return tuple(
        EngineStatus(
            manifest=manifest,
            installed=launcher.environment(name) is not None,
            unavailable_reason=launcher.unavailable_reason(name),
        )
        for name, manifest in launcher.manifests().items()
    )


def _add_endpoint_routes(app: FastAPI, controller: Controller, launcher: Launcher, key: list[Any]) -> None:
    """Routes under /v1/endpoints. They run on the loop's thread, where records may be changed."""
    ledger, wishes = controller.ledger, controller.wishes

    @app.get("/v1/endpoints", dependencies=key, summary="Every endpoint")
    async def list_endpoints() -> EndpointList:
        return EndpointList(endpoints=tuple(record.status() for record in ledger.all()))

    @app.get("/v1/endpoints/{name}", dependencies=key, summary="One endpoint")
    async def show(name: str) -> EndpointStatus:
        return ledger.get(name).status()

    @app.put("/v1/endpoints/{name}", dependencies=key, summary="Make a spec true")
    async def apply(name: str, spec: EndpointSpec) -> EndpointStatus:
        """The same spec changes nothing, unless the endpoint failed or was stopped; another one replaces the engine."""
        if spec.name != name:
            raise InvalidSpec(f"The spec is for endpoint {spec.name} and the path says {name}.", field="name")
        if spec.engine_args and launcher.environment(spec.engine) is not None:
            await asyncio.to_thread(launcher.check_arguments, spec.engine, spec.engine_args)
        return wishes.apply(spec).status()

    @app.post("/v1/endpoints/{name}/start", dependencies=key, summary="Want it Running")
    async def start(name: str) -> EndpointStatus:
        return wishes.start(name).status()

    @app.post("/v1/endpoints/{name}/stop", dependencies=key, summary="Want it Stopped")
    async def stop(name: str) -> EndpointStatus:
        return wishes.stop(name).status()

    @app.post("/v1/endpoints/{name}/restart", dependencies=key, summary="Replace its engine by a new one")
    async def restart(name: str) -> EndpointStatus:
        return wishes.restart(name).status()

    @app.delete("/v1/endpoints/{name}", status_code=202, dependencies=key, summary="End and forget it, logs included")
    async def delete(name: str, confirm: Annotated[str, Query(description="the endpoint's name")]) -> EndpointStatus:
        return wishes.delete(name, confirm).status()

    @app.get("/v1/endpoints/{name}/logs", dependencies=key, summary="What the engine wrote")
    async def logs(
        name: str,
        tail: Annotated[int, Query(ge=0, le=10_000, description="lines")] = 200,
        launch_id: Annotated[str | None, Query(description="with `offset`: read on in this launch's log")] = None,
        offset: Annotated[int, Query(ge=0, le=1 << 60, description="bytes already read")] = 0,
    ) -> LogChunk:
        ledger.get(name)
        read = partial(controller.backend.read_log, name, tail=tail, launch_id=launch_id, offset=offset)
        return await asyncio.to_thread(read)


_STATUS_OF: tuple[tuple[type[ModelOpsError], int], ...] = (
    (InvalidSpec, 422),
    (NoSuchEndpoint, 404),
    (Conflict, 409),
    (DiskFull, 507),
    (UserError, 400),
    (ModelOpsError, 503),
)


def _add_error_handlers(app: FastAPI) -> None:
    """Every failure in one shape; a traceback goes to the log and never to the caller."""

    @app.exception_handler(ModelOpsError)
    async def on_domain_error(_: Request, error: ModelOpsError) -> JSONResponse:
        status = next(status for kind, status in _STATUS_OF if isinstance(error, kind))
        return _error(status, error.code, error.sentence, getattr(error, "field", None))

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        field, message = _first_problem(error.errors())
        return _error(422, InvalidSpec.code, message, field)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return _error(404, "no_such_route", "There is no such route; /docs lists those there are.")
        if error.status_code == 401:
            return _error(401, "unauthorized", str(error.detail))
        if error.status_code == 405:
            return _error(405, "method_not_allowed", f"{request.method} is not offered here; /docs lists what is.")
        return _error(error.status_code, "bad_request", str(error.detail))

    @app.exception_handler(Exception)
    async def on_bug(_: Request, error: Exception) -> JSONResponse:
        return _error(500, "internal", f"The controller met an unexpected {type(error).__name__}; its log says more.")


def _first_problem(errors: Any) -> tuple[str | None, str]:
    """(field, sentence) of the first validation error."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return None, "The body is not valid JSON."
    field = ".".join(str(part) for part in first["loc"][1:]) or None
    if first["type"] == "extra_forbidden":
        return field, f"{field} is not a field of this document; remove it."
    if first["type"] == "missing":
        return field, f"{field or 'The body'} is missing."
    said = str(first["msg"]).removeprefix("Value error, ")
    return field, f"{field}: {said}." if field else f"{said}."
