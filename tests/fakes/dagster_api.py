"""A Dagster UI over GraphQL, on loopback, that answers whatever a test wants of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.fakes.threads import Quiet, http_server


@contextmanager
def answering(answer: Callable[[str], tuple[int, Any]]) -> Iterator[str]:
    """Its URL; `answer` gets a query's text and says with which status and body (text, or what becomes JSON)."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = answer(asked["query"])
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with http_server(Handler) as url:
        yield url


RUN_ID = "11111111-2222-3333-4444-555555555555"
_ENTRY = {"name": "modelops_dagster", "loadStatus": "LOADED", "locationOrLoadError": {"__typename": "Location"}}
_READY = {
    "workspaceOrError": {"locationEntries": [_ENTRY]},
    "instance": {"daemonHealth": {"allDaemonStatuses": []}},
}
_MADE = {
    "addDynamicPartition": {"__typename": "AddDynamicPartitionSuccess"},
    "launchRun": {"__typename": "LaunchRunSuccess", "run": {"runId": RUN_ID}},
}


class IdleDagster:
    """One that is ready and takes every run; `changes` are the mutations that it was asked for, in order."""

    def __init__(self) -> None:
        self.changes: list[str] = []

    def answer(self, query: str) -> tuple[int, Any]:
        """As `answering` wants it."""
        made = {name: body for name, body in _MADE.items() if name in query}
        self.changes += made
        return 200, {"data": made or _READY}
