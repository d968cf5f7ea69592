"""What a client gets to see: the gateway's own answers, and LiteLLM's without addresses, headers and internals."""

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

from modelops_dagster.clients.gateway import SERVICE
from modelops_dagster.services.gateway.admission import Refusal

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

# LiteLLM tells a client which address answered, the parameters it used and the engine's own headers; only these stay.
SHOWN_HEADERS = frozenset(
    {
        b"x-litellm-call-id",
        b"x-litellm-model-id",
        b"x-litellm-response-cost",
        b"x-litellm-attempted-retries",
        b"x-litellm-response-duration-ms",
        b"x-litellm-overhead-duration-ms",
    }
)
HIDDEN_PREFIXES = (b"x-litellm-", b"llm_provider-", b"llm-provider-")
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
NO_TARGET = "No deployments available"
# an engine has them or not; without, it knows no such path. Chats and completions every engine has.
OPTIONAL_APIS = ("/embeddings", "/responses")


class ShownError(NamedTuple):
    """A failed call as the client is told."""

    status: int
    code: str
    message: str
    retry_after_s: float | None = None


def shown_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The response headers a client may see. The deployment id is shown without the alias the Router needs in it."""
    shown: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == b"x-litellm-model-id":
            value = value.partition(b":")[0]
        if lowered in SHOWN_HEADERS or not lowered.startswith(HIDDEN_PREFIXES):
            shown.append((name, value))
    return shown


def shown_error(status: int, body: bytes, *, alias: str, addresses: Mapping[str, str], path: str = "") -> ShownError:
    """LiteLLM's error in the gateway's words.

    What the engine says about a bad request is passed on, since the client needs it, without the engine's address. What
    goes wrong behind the gateway is told as that and no more; the details are in the call log.

    Args:
        status: LiteLLM's status; its 500 for an engine that fails becomes 502, its 408 becomes 504.
        body: LiteLLM's answer.
        addresses: address -> endpoint name, to be replaced wherever they appear.
        path: of the call.
    """
    message, code = _message(body)
    if NO_TARGET in message:
        return ShownError(503, "no_endpoint", f"No endpoint of {alias!r} can answer now; try again in a moment.", 1)
    if status == 408:
        told = f"The endpoint behind {alias!r} did not answer in time; try again."
        return ShownError(504, "endpoint_timeout", told, 1)
    if status >= 500:
        shown = 502 if status == 500 else status
        return ShownError(shown, "endpoint_failed", f"The endpoint behind {alias!r} failed; try again in a moment.", 1)
    if status == 404 and path.endswith(OPTIONAL_APIS):
        told = f"The endpoint behind {alias!r} does not answer {path}: its engine or its model has no such thing."
        return ShownError(400, "not_supported", told)
    message = _engine_words(message.partition("\n\nLiteLLM:")[0])
    for address, endpoint in addresses.items():
        port = address.rpartition(":")[2]
        message = message.replace(address, endpoint).replace(f"REDACTED:{port}", endpoint)
    return ShownError(
        status, code or "request_refused", message or "The request was refused.", 1 if status == 429 else None
    )


def shown_chunk(chunk: bytes, *, alias: str, addresses: Mapping[str, str]) -> bytes:
    """A piece of a stream, with the error in it, if that is what it is, in the gateway's words."""
    if chunk.startswith(b'data: {"error"'):
        event, extra = b"", {}
    elif chunk.startswith(b"event: error"):  # as the Anthropic API words it
        event, extra = b"event: error\n", {"type": "error"}
    else:
        return chunk
    error = shown_error(500, b"", alias=alias, addresses=addresses)
    return event + b"data: " + json.dumps({**extra, **_error_body(error)}).encode() + b"\n\n"


async def answer(send: Send, status: int, body: Mapping[str, object], headers: Headers = ()) -> None:
    """Send one JSON document."""
    content = json.dumps(body).encode()
    own = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"x-modelops-service", SERVICE.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    await send({"type": "http.response.body", "body": content})


async def refuse(send: Send, refusal: Refusal | ShownError, call_id: str | None = None) -> None:
    """Send an error as the OpenAI API words it."""
    headers = [(b"x-litellm-call-id", call_id.encode())] if call_id else []
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(refusal.retry_after_s)).encode()))
    await answer(send, refusal.status, _error_body(refusal), headers)


def _error_body(error: Refusal | ShownError) -> dict[str, object]:
    kind = ERROR_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


def _engine_words(message: str) -> str:
    """The engine's own message out of LiteLLM's `litellm.BadRequestError: Hosted_vllmException - {...}`."""
    words = message.partition("Exception - ")[2] or message
    return _message(words.encode())[0] or words


def _message(body: bytes) -> tuple[str, str | None]:
    try:
        error = json.loads(body)["error"]
        return str(error["message"]), None if error.get("code") is None else str(error["code"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None
