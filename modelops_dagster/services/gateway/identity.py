"""Who makes a call, and what LiteLLM gets to see of the request."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.domain.gateway import KeyRecord
from modelops_dagster.services.gateway.admission import Refusal
from modelops_dagster.services.gateway.answers import Message
from modelops_dagster.services.gateway.calls import Call

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_BODY_BYTES = 64 * 2**20
ON_BEHALF_OF = "x-modelops-key-id"
PRIORITY = "x-modelops-priority"
USER = "x-modelops-user"
# What LiteLLM gets of a client's headers; the rest may hold keys, or steer it.
FORWARDED_HEADERS = frozenset(
    {
        *(b"host", b"user-agent", b"accept", b"x-litellm-tags", b"x-request-id"),
        *(b"anthropic-version", b"anthropic-beta", b"traceparent", b"tracestate"),
    }
)


class Operator:
    """The platform itself: it sees every route and calls no model."""


OPERATOR = Operator()


class Doorman:
    """Finds out whose request it is. Nothing is remembered: a revoked key is nobody's at its next call."""

    def __init__(self, keys: KeyStore, *, operator_key: str, batch_key: str, complain: Callable[[str], None]) -> None:
        """
        Args:
            operator_key: the platform's own key.
            batch_key: of the batch runner, which calls on behalf of the key a batch was submitted with.
            complain: called with one sentence when keys cannot be checked.
        """
        self._keys = keys
        self._operator_key = operator_key.encode()
        self._batch_key = batch_key.encode()
        self._complain = complain

    def authenticate(self, scope: Scope) -> KeyRecord | Refusal | Operator:
        """The key's record, the operator, or why not."""
        key = _credential(scope)
        if key is None:
            return Refusal(401, "missing_api_key", "No API key; send one as 'Authorization: Bearer <key>'.")
        if secrets.compare_digest(key.encode(), self._operator_key):
            return OPERATOR
        try:
            if secrets.compare_digest(key.encode(), self._batch_key):
                record = self._keys.record(header(scope, ON_BEHALF_OF.encode()))
            else:
                record = self._keys.lookup(key)
        except Exception as error:
            self._complain(f"the key store cannot be read, so the call is refused ({type(error).__name__}: {error})")
            return Refusal(503, "key_store_unavailable", "Keys cannot be checked now, so nothing is let through.", 1)
        return record or Refusal(401, "invalid_api_key", "The API key is not valid.")


def header(scope: Scope, name: bytes) -> str:
    """The values of a header, joined with commas; empty when it is not there."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def litellm_scope(scope: Scope, call: Call, size_bytes: int) -> Scope:
    """The request as LiteLLM sees it: the key's id instead of the key, and nothing that was not checked.

    LiteLLM reads a body as a form when the client says so, and a model's name from the query: both would be a second
    request that nobody looked at.
    """
    kept = [(name, value) for name, value in scope["headers"] if name in FORWARDED_HEADERS]
    added = [
        (b"authorization", b"Bearer " + (call.key.key_id.encode() if call.key else b"")),
        (b"content-type", b"application/json"),
        (b"content-length", str(size_bytes).encode()),
        (b"x-litellm-call-id", call.call_id.encode()),
    ]
    path = {"path": call.path, "raw_path": call.path.encode(), "query_string": b""}
    return {**scope, **path, "headers": [*kept, *added]}


async def read_body(receive: Receive, max_bytes: int = MAX_BODY_BYTES) -> bytes | None:
    """The whole body, or None when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _credential(scope: Scope) -> str | None:
    scheme, _, token = header(scope, b"authorization").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else header(scope, b"x-api-key").strip()
    return key or None
