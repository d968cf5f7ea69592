"""GitHub's releases API and Atom feed, and a package index's JSON, on loopback: ETags, rate limits, faults."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.threads import Quiet, http_server

FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:media="http://search.yahoo.com/mrss/" xml:lang="en-US">
<id>tag:github.com,2008:https://github.com/{repo}/releases</id><title>Release notes</title>{entries}</feed>"""
ENTRY = """<entry><id>tag:github.com,2008:Repository/1/{tag}</id><updated>{at}</updated>
<link rel="alternate" type="text/html" href="https://github.com/{repo}/releases/tag/{tag}"/><title>{tag}</title>
<content type="html">&lt;p&gt;notes&lt;/p&gt;</content></entry>"""
AT = "2026-11-20T12:00:00Z"


@dataclass
class GitHub:
    """What is published, by owner/name; what was asked, newest last."""

    releases: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    packages: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    limited: dict[str, str] | None = None
    """Headers of the 403 that every request to the API gets."""
    broken: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Path prefix -> status and body."""
    asked: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def publish(self, repo: str, tag: str, **more: Any) -> None:
        """Add a release, newest first as GitHub lists them."""
        listed = self.releases.setdefault(repo, [])
        url = f"https://github.com/{repo}/releases/tag/{tag}"
        base = {"id": len(listed) + 1, "tag_name": tag, "name": tag, "draft": False, "prerelease": False}
        listed.insert(0, {**base, "published_at": AT, "html_url": url, "body": "notes", **more})

    def upload(self, package: str, version: str, yanked: bool = False) -> None:
        """Add a version with one file to the index."""
        files = self.packages.setdefault(package, {}).setdefault(version, [])
        files.append({"filename": f"{package}-{version}.whl", "yanked": yanked, "upload_time_iso_8601": AT})

    def paths(self, prefix: str) -> list[int]:
        """Statuses of the requests under a path, in order."""
        return [status for path, status, _ in self.asked if path.startswith(prefix)]

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        for prefix, (status, content) in self.broken.items():
            if path.startswith(prefix):
                return status, {}, content
        if path.startswith("/repos/") and self.limited is not None:
            return 403, self.limited, b'{"message": "API rate limit exceeded"}'
        body = self._body(path)
        if body is None:
            return 404, {}, b'{"message": "Not Found"}'
        etag = f'W/"{hashlib.sha256(body).hexdigest()}"'
        if headers.get("if-none-match") == etag:
            return 304, {"ETag": etag}, b""
        return 200, {"ETag": etag}, body

    def _body(self, path: str) -> bytes | None:
        parts = path.strip("/").split("/")
        if path.startswith("/repos/") and parts[-1] == "releases":
            listed = self.releases.get("/".join(parts[1:3]))
            return None if listed is None else json.dumps([r for r in listed if not r["draft"]][:30]).encode()
        if parts[-1] == "releases.atom":
            repo = "/".join(parts[:2])
            entries = [ENTRY.format(repo=repo, tag=r["tag_name"], at=AT) for r in self.releases.get(repo, ())[:10]]
            return FEED.format(repo=repo, entries="".join(entries)).encode()
        if parts[0] == "index" and parts[1] in self.packages:
            return json.dumps({"info": {"name": parts[1]}, "releases": self.packages[parts[1]]}).encode()
        return None

    @contextmanager
    def running(self) -> Iterator["GitHub"]:
        outer = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                asked = {k.lower(): v for k, v in self.headers.items()}
                status, headers, content = outer.answer(path, asked)
                outer.asked.append((path, status, asked))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 304:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        with http_server(Handler) as self.url:
            yield self
