"""The two routes of an OpenAI-compatible server, and the base URL behind what people paste."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import SplitResult, urlsplit, urlunsplit

Api = Literal["chat", "completions"]
PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


def base_url(url: str) -> str:
    """The base URL that ends in /v1 (or what the user gave), from a base URL or a full path to one of the two routes.

    Raises:
        ValueError: not an http(s) URL, or one with a password in it.
    """
    _, at, host = url.strip().split("//", 1)[-1].split("/", 1)[0].rpartition("@")
    if at:
        raise ValueError(f"of {host!r} holds a user name or password: leave it out, and put the key into a variable")
    parts = _parts(url)
    if parts is None:
        raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/")
    for route in PATHS.values():
        path = path.removesuffix(route)
    return urlunsplit((parts.scheme, parts.netloc, path or "/v1", "", ""))


def api_of(url: str) -> Api | None:
    """The route a full path names, or None for a base URL."""
    parts = _parts(url)
    path = parts.path.rstrip("/") if parts else ""
    return next((api for api, route in PATHS.items() if path.endswith(route)), None)


def _parts(url: str) -> SplitResult | None:
    """An http(s) URL with a host, in parts; None for anything else."""
    try:
        parts = urlsplit(url.strip())
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not match, a port that is none
        return None
    return parts if is_web else None
