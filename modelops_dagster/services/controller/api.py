"""The controller's REST API, put together: one router a subject, one shape for every error, a key on everything."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from modelops_dagster import __version__
from modelops_dagster.clients.endpoint_documents import SpecResolver
from modelops_dagster.clients.endpoints import Launcher
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.answers import ErrorBody, add_error_handlers
from modelops_dagster.services.controller.doorman import Doorman, Lookup
from modelops_dagster.services.controller.gateway import GatewayDocuments
from modelops_dagster.services.controller.hub_webhook import HubPush, add_webhook_route
from modelops_dagster.services.controller.monitor import Monitor
from modelops_dagster.services.controller.reconcile import Controller
from modelops_dagster.services.controller.routers.batches import batches_router
from modelops_dagster.services.controller.routers.endpoints import endpoints_router
from modelops_dagster.services.controller.routers.engines import engines_router
from modelops_dagster.services.controller.routers.monitoring import monitoring_router
from modelops_dagster.services.controller.routers.pages import pages_router
from modelops_dagster.services.controller.routers.playground import KeyOf, is_public, playground_router
from modelops_dagster.services.controller.routers.research import research_router
from modelops_dagster.services.controller.routers.routes import routes_router

SERVICE = "modelops-controller"


class Health(Value):
    """Who answers here: a program that only says 200 is not taken for a controller."""

    service: str
    home: str
    version: str


def create_app(
    controller: Controller,
    launcher: Launcher,
    resolver: SpecResolver,
    monitor: Monitor,
    gateway: GatewayDocuments,
    *,
    token: str,
    home: str,
    keep_engines: Callable[[], bool],
    access: Lookup = lambda _: None,
    key_of: KeyOf = lambda _: None,
    push: HubPush | None = None,
) -> FastAPI:
    """The application. It opens the controller when it starts and closes it when it ends.

    Args:
        token: the home's own key, an admin's.
        keep_engines: asked at the end whether engines go on without the controller.
        access: finds what is known of any other key.
        key_of: the key that an external endpoint's spec names.
        push: what to do when the Hub pushes; None: it is not listened to.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with monitor.watching():
            await controller.open()
            yield
            await controller.close(keep_engines=keep_engines())

    app = FastAPI(
        title="modelops controller",
        version=__version__,
        summary="Endpoints: what is wanted, and how it stands.",
        lifespan=lifespan,
        docs_url=None,  # the pages have one of ours
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name the host that the caller said it is
        responses={"4XX": {"model": ErrorBody, "description": "what was wrong, and the field"}},
    )
    app.add_middleware(Doorman, token=token, lookup=access, is_public=partial(is_public, controller.ledger))
    add_error_handlers(app)

    @app.get("/health", summary="Who answers here")
    async def health() -> Health:
        return Health(service=SERVICE, home=home, version=__version__)

    app.include_router(engines_router(launcher))
    app.include_router(endpoints_router(controller, launcher, resolver))
    app.include_router(monitoring_router(controller.ledger, monitor))
    app.include_router(playground_router(controller.ledger, controller.wishes, key_of))
    app.include_router(routes_router(gateway.routes, gateway.moves))
    app.include_router(batches_router(gateway.batches, gateway.keys))
    app.include_router(research_router(controller.research))
    app.include_router(pages_router())
    if push is not None:
        add_webhook_route(app, push)
    return app
