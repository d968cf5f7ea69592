"""A key that callers have to send, as vLLM has it: `Authorization: Bearer KEY`, or 401."""

import hashlib
import secrets
from typing import Any

from fastapi.responses import JSONResponse

from .protocol import Refused

OPEN_PATHS = ("/health", "/metrics")  # asked by what watches the engine
VARIABLE = "SERVE_API_KEY"  # not an argument: those are shown to everybody who lists processes


class RequireKey:
    """An ASGI middleware in front of every route but the open ones."""

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._wanted = _digest(key)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_open = scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"] in OPEN_PATHS
        if is_open or self._holds(dict(scope["headers"]).get(b"authorization", b"")):
            await self._app(scope, receive, send)
            return
        said = "the key is missing or wrong; send Authorization: Bearer KEY."
        error = Refused(said, status=401, code="invalid_api_key")
        answer = JSONResponse(error.body(), status_code=401, headers={"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)

    def _holds(self, header: bytes) -> bool:
        scheme, _, key = header.decode("latin-1").partition(" ")
        return scheme.lower() == "bearer" and secrets.compare_digest(_digest(key), self._wanted)


def _digest(key: str) -> bytes:
    """Of one length, so that the comparison tells nothing about the key's."""
    return hashlib.sha256(key.encode()).digest()
