"""What a UI that is not ready yet, or is not Dagster's, looks like to the client."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from modelops_dagster.clients.dagster_api import DagsterClient
from modelops_dagster.domain.errors import ModelOpsError, NotRunning
from tests.fakes.threads import Quiet, http_server


@contextmanager
def answering(status: int, body: Any) -> Iterator[str]:
    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with http_server(Handler) as url:
        yield url


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {"message": "starting"}), (200, {"data": None}), (200, []), (200, {}), (503, "<html>busy</html>")],
)
def test_what_is_no_answer_of_dagster_yet_is_not_running(status: int, body: Any):
    with answering(status, body) as url, pytest.raises(NotRunning, match="modelops up"):
        DagsterClient(url).problem()


def test_a_refused_query_is_said_in_dagsters_words():
    body = {"errors": [{"message": "Unknown field"}]}
    with answering(400, body) as url, pytest.raises(ModelOpsError, match="Unknown field"):
        DagsterClient(url).problem()
