"""The pages: a list, and one per endpoint. They hold nothing: what they show they ask the REST API for, with a key."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import RedirectResponse, Response
from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modelops_dagster.domain.endpoints import ENDPOINT_NAME
from modelops_dagster.domain.errors import NoSuchEndpoint, NotFound

_FOLDER = Path(__file__).resolve().parents[1] / "pages"
_PAGES = ("list.html", "endpoint.html", "reference.html")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# nothing from elsewhere, no script or style but these files, no frame around the page, no address sent on
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def pages_router() -> APIRouter:
    """Pages and their assets, read once."""
    router = APIRouter(include_in_schema=False)
    templates = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_FOLDER), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    files = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    files |= {name: templates.get_template(name).render().encode() for name in _PAGES}

    @router.get("/")
    async def root() -> Response:
        return RedirectResponse("/endpoints")

    @router.get("/endpoints")
    async def endpoints() -> Response:
        return _file(files, "list.html")

    @router.get("/endpoints/{name}")
    async def endpoint(name: str) -> Response:
        """The same page whether there is such an endpoint or not: who asks without a key is told neither."""
        if not ENDPOINT_NAME.fullmatch(name):
            raise NoSuchEndpoint(f"There is no endpoint {name!r}; /endpoints lists those there are.")
        return _file(files, "endpoint.html")

    @router.get("/docs")
    async def reference() -> Response:
        """FastAPI's own page loads its program from another server, which a site of its own cannot reach."""
        return _file(files, "reference.html")

    @router.get("/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in files or name.endswith(".html"):
            raise NotFound(f"There is no file {name!r} of the pages.")
        return _file(files, name)

    return router


def _file(files: dict[str, bytes], name: str) -> Response:
    return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)
