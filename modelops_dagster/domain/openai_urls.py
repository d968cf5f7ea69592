"""The two routes of an OpenAI-compatible server, and the base URL behind what people paste."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Api = Literal["chat", "completions"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


def base_url(url: str) -> str:
    """The base URL that ends in /v1 (or what the user gave), from a base URL or a full path to one of the two routes.

    Raises:
        ValueError: not an http(s) URL.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/")
    for route in PATHS.values():
        path = path.removesuffix(route)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def api_of(url: str) -> Api | None:
    """The route a full path names, or None for a base URL."""
    path = urlsplit(url.strip()).path.rstrip("/")
    return next((api for api, route in PATHS.items() if path.endswith(route)), None)
