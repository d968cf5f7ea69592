"""LiteLLM's response on its way to the client: headers and errors reworded, time and text noted."""

import json
import time
from collections.abc import Mapping
from typing import Any

from modelops_dagster.services.gateway.answers import Message, Send, refuse, shown_chunk, shown_error, shown_headers
from modelops_dagster.services.gateway.calls import Call

MAX_KEPT_BYTES = 256 * 1024


class Reply:
    """One response. An error is held back until it is whole, and reworded."""

    def __init__(self, call: Call, send: Send, addresses: Mapping[str, str]) -> None:
        self.ended = False
        self._call = call
        self._send = send
        self._addresses = addresses
        self._held = b""
        self._kept: bytearray | None = bytearray() if call.key is not None and call.key.log_prompts else None

    async def send(self, message: Message) -> None:
        """Take one message of LiteLLM's application."""
        call = self._call
        if message["type"] == "http.response.start":
            call.status = message["status"]
            for name, value in message.get("headers", ()):
                if name.lower() == b"x-litellm-model-id":
                    call.router_id = value.decode("latin-1")
            if message["status"] < 400:
                await self._send({**message, "headers": shown_headers(message.get("headers", ()))})
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if (call.status or 0) < 400:
                await self._pass_on(message)
            else:
                self._held += message.get("body", b"")
                if self.ended:
                    await self._reword(call.status or 500)

    async def _pass_on(self, message: Message) -> None:
        chunk = message.get("body", b"")
        if chunk and self._call.first_byte_s is None:
            self._call.first_byte_s = time.monotonic()
        if self._kept is not None and len(self._kept) < MAX_KEPT_BYTES:
            self._kept += chunk
        if self._call.stream:
            shown = shown_chunk(chunk, alias=self._call.alias or "", addresses=self._addresses)
            if shown is not chunk:
                self._call.broken, self._call.error = True, self._call.error or "EndpointFailed"
            if self._call.hides_usage and b'"usage"' in chunk:
                shown = b""  # the gateway asked for it, not the client
            message = {**message, "body": shown}
        if self.ended and self._kept is not None:
            self._call.completion = answered_text(bytes(self._kept))
        await self._send(message)

    async def _reword(self, status: int) -> None:
        alias, path = self._call.alias or "", self._call.path
        error = shown_error(status, self._held, alias=alias, addresses=self._addresses, path=path)
        self._call.status = error.status
        self._call.error = self._call.error or error.code
        await refuse(self._send, error, self._call.call_id)


def answered_text(body: bytes) -> str | None:
    """The words of an answer, whole or streamed, as the OpenAI or Anthropic API has them; None if there are none."""
    words: list[str] = []
    for line in body.split(b"\n") if body.startswith((b"data:", b"event:")) else [body]:
        piece = line.removeprefix(b"data:").strip()
        if piece.startswith(b"{"):
            try:
                words += _words(json.loads(piece))
            except ValueError:  # the last piece of an answer that was cut
                continue
    return "".join(words) or None


def _words(document: Any) -> list[str]:
    choices = document.get("choices") or []
    found = [(c.get("message") or c.get("delta") or {}).get("content") or c.get("text") for c in choices]
    found += [part.get("text") for part in document.get("content") or () if isinstance(part, dict)]
    found.append((document.get("delta") or {}).get("text"))
    return [word for word in found if isinstance(word, str)]
