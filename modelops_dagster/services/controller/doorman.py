"""Who asks, and what they may: a bearer key on every request, a role on every route."""

import hmac
import logging
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from modelops_dagster.domain.access import AccessKey, Caller, Role
from modelops_dagster.domain.errors import Forbidden, IntegrityError
from modelops_dagster.services.controller.answers import ErrorBody, error_answer
from modelops_dagster.services.controller.hub_webhook import WEBHOOK_PATH
from modelops_dagster.services.controller.visitors import VisitorRate

# they say nothing about endpoints: who answers here, the description of the REST API, and the pages, which are
# programs that ask for a key before they ask for anything else
OPEN_PATHS = frozenset({"/health", "/docs", "/openapi.json", "/", "/endpoints"})
OPEN_PREFIXES = ("/endpoints/", "/assets/")
# what a visitor, who has no key, may ask of a public endpoint
VISITED = re.compile(r"/v1/endpoints/([^/]+)/(?:card|metrics|chat)")
MAX_BODY_BYTES = 1 << 20
MAX_BATCH_BYTES = 64 << 20
BATCHES_PATH = "/v1/batches"
HOME = "home"
_KEY = re.compile(r"Bearer ([\x21-\x7e]{1,200})")

log = logging.getLogger("modelops.controller")
Lookup = Callable[[str], AccessKey | None]
IsPublic = Callable[[str], bool]


class Doorman:
    """Refuses a request without a valid key, or with a body that is too large, before a byte of its body is read.

    Args:
        token: the home's own key.
        lookup: finds what is known of any other key.
        is_public: whether an endpoint of that name is there and may be visited without a key.
    """

    def __init__(self, app: ASGIApp, token: str, lookup: Lookup, is_public: IsPublic) -> None:
        self._app = app
        self._token = token.encode()
        self._lookup = lookup
        self._is_public = is_public
        self._rate = VisitorRate()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._asks_too_often(scope):
                told = "Visitors may not ask as often as that; come again in a second, or use a key."
                await error_answer(429, "too_many_visitors", told, retry_after_s=1)(scope, receive, send)
                return
            refusal = self._refusal(scope)
            if refusal is not None:
                await error_answer(*refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers = dict(scope["headers"])
        path = scope["path"]
        if path == WEBHOOK_PATH:
            return None  # asks for a secret of its own, since the Hub does not know the controller's keys
        if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIXES):
            try:
                caller = self._caller(headers.get(b"authorization", b"").decode("latin-1"))
            except (IntegrityError, OSError) as error:
                log.error("a key could not be looked up: %s", error)
                return 503, "keys_unreadable", "The controller cannot read its keys; its log says which file."
            if caller is None and not self._visits(path, headers):
                return 401, "unauthorized", "This needs a key of the controller: send `Authorization: Bearer <key>`."
            scope.setdefault("state", {})["caller"] = caller
        if b"transfer-encoding" in headers:
            return 411, "length_required", "Send the body with a Content-Length and not in chunks."
        most = MAX_BATCH_BYTES if path == BATCHES_PATH else MAX_BODY_BYTES
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > most:
            return 413, "too_large", f"The body is larger than {most} bytes, the most that this route takes."
        return None

    def _asks_too_often(self, scope: Scope) -> bool:
        """Whether it is a visitor's request, of an endpoint that is there or not, that is one too many."""
        if VISITED.fullmatch(scope["path"]) is None or any(name == b"authorization" for name, _ in scope["headers"]):
            return False
        return not self._rate.admits((scope.get("client") or ("",))[0])

    def _visits(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether somebody without a key asks what a visitor may. One with a wrong key is told so."""
        found = VISITED.fullmatch(path)
        return found is not None and b"authorization" not in headers and self._is_public(found[1])

    def _caller(self, header: str) -> Caller | None:
        found = _KEY.fullmatch(header)
        if found is None:
            return None
        if hmac.compare_digest(found[1].encode(), self._token):
            return Caller(alias=HOME, role=Role.ADMIN)
        record = self._lookup(found[1])
        return Caller(alias=record.alias, role=record.role) if record else None


def _caller_of(request: Request) -> Caller | None:
    """Who asks; the doorman has seen their key, or that they need none."""
    caller: Caller | None = request.state.caller
    return caller


def _known(request: Request) -> Caller:
    caller = _caller_of(request)
    if caller is None:  # a route let a visitor in and asks for a name
        raise Forbidden("This needs a key of the controller: send `Authorization: Bearer <key>`.")
    return caller


Asking = Annotated[Caller, Depends(_known)]
Visiting = Annotated[Caller | None, Depends(_caller_of)]


def require(caller: Caller | None, needed: Role, what: str) -> None:
    """Refuse what the caller's role does not include; a visitor has none.

    Raises:
        Forbidden: says which role is needed.
    """
    if caller is None or not caller.role.includes(needed):
        have = f"the key of {caller.alias} is a {caller.role}'s" if caller else "none was sent"
        raise Forbidden(
            f"{what} needs a key with the role {needed}, and {have}; "
            f"an admin makes one with `modelops access create --alias NAME --role {needed}`."
        )


def needs(role: Role, *, or_visitor: bool = False) -> dict[str, Any]:
    """The options of a route that only this role, and those above it, may ask; or a visitor of a public endpoint."""

    def check(request: Request) -> None:
        caller = _caller_of(request)
        if caller is not None or not or_visitor:
            require(caller, role, "This")

    extra: dict[str, Any] = {"x-required-role": str(role)}
    extra |= {"x-open-to-visitors": True, "security": [{}]} if or_visitor else {}
    return {
        "dependencies": [Security(HTTPBearer(auto_error=False)), Depends(check)],
        "openapi_extra": extra,
        "responses": {
            401: {"model": ErrorBody, "description": "no valid key"},
            403: {"model": ErrorBody, "description": f"the key's role is below {role}"},
        },
    }
