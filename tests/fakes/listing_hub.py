"""A Hub that only lists: tens of thousands of repositories from memory, answered by the standard library."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit


class ListingHub:
    """Serves `/api/models?author=…` and trees on loopback for as long as the `with` block lasts.

    Args:
        orgs: how many organisations.
        repos_each: how many repositories each of them has.
    """

    def __init__(self, orgs: int, repos_each: int) -> None:
        self.orgs = [f"org-{n}" for n in range(orgs)]
        self.requests = 0
        self._listed = {org: [_item(org, f"Model-{n}B-Instruct") for n in range(repos_each)] for org in self.orgs}
        self._answers = {org: json.dumps(items).encode() for org, items in self._listed.items()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def release(self, org: str) -> None:
        """One more repository of an organisation."""
        self._listed[org].append(_item(org, f"New-{len(self._listed[org])}"))
        self._answers[org] = json.dumps(self._listed[org]).encode()

    def __enter__(self) -> "ListingHub":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> bytes:
        self.requests += 1
        parts = urlsplit(path)
        if "/tree/" in parts.path:
            commit = parts.path.rsplit("/", 1)[1]
            lfs = {"oid": hashlib.sha256(commit.encode()).hexdigest(), "size": 1000, "pointerSize": 134}
            return json.dumps(
                [
                    {"type": "file", "path": "config.json", "size": 10, "oid": commit},
                    {"type": "file", "path": "model.safetensors", "size": 1000, "oid": commit, "lfs": lfs},
                ]
            ).encode()
        return self._answers.get(parse_qs(parts.query)["author"][0], b"[]")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                body = hub._answer(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        return Handler


def _item(org: str, name: str) -> dict[str, Any]:
    repo_id = f"{org}/{name}"
    sha = hashlib.sha1(repo_id.encode(), usedforsecurity=False).hexdigest()
    shards = [f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    files = [*shards, "model.safetensors.index.json", "config.json", "tokenizer.json", "README.md", ".gitattributes"]
    return {
        "_id": hashlib.sha256(repo_id.encode()).hexdigest()[:24],
        "id": repo_id,
        "sha": sha,
        "siblings": [{"rfilename": f} for f in files],
        "tags": ["transformers", "safetensors", "license:apache-2.0", "text-generation", "region:us"],
        "pipeline_tag": "text-generation",
        "gated": False,
        "private": False,
        "disabled": False,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "safetensors": {"parameters": {"BF16": 8_000_000_000}, "total": 8_000_000_000},
    }
