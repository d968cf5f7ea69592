"""What LiteLLM does wrong, put right until it does so itself: the tests of the contract tell when that is."""

from typing import Any

import httpx
from litellm.llms.custom_httpx import http_handler


def keep_streams_of_second_attempts() -> None:
    """Let an answer that is streamed over a second connection arrive.

    When it cannot connect, as while an engine or the address of its Service changes, LiteLLM sends the call again by a
    client made for that alone, and closes this client when it has the answer's headers: what is streamed ends there, as
    if the model had said nothing. Here that client is closed with the answer.
    """
    handler = http_handler.AsyncHTTPHandler
    whole = handler.single_connection_post_request

    async def again(self: Any, url: str, client: httpx.AsyncClient, stream: bool = False, **given: Any) -> Any:
        response = await whole(self, url=url, client=client, stream=stream, **given)
        if stream:
            _close_with(response, client)
        return response

    if whole.__module__ == http_handler.__name__:
        handler.single_connection_post_request = again


def _close_with(response: Any, client: Any) -> None:
    close_client, close_response = client.aclose, response.aclose

    async def not_yet() -> None:
        pass

    async def both() -> None:
        try:
            await close_response()
        finally:
            await close_client()

    client.aclose, response.aclose = not_yet, both
