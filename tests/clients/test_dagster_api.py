"""What a UI that is not ready yet, or is not Dagster's, looks like to the client."""

from typing import Any

import pytest

from modelops_dagster.clients.dagster_api import DagsterClient
from modelops_dagster.domain.errors import ModelOpsError, NotRunning
from tests.fakes.dagster_api import answering


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {"message": "starting"}), (200, {"data": None}), (200, []), (200, {}), (503, "<html>busy</html>")],
)
def test_what_is_no_answer_of_dagster_yet_is_not_running(status: int, body: Any):
    with answering(lambda query: (status, body)) as url, pytest.raises(NotRunning, match="modelops up"):
        DagsterClient(url).problem()


def test_a_refused_query_is_said_in_dagsters_words():
    body = {"errors": [{"message": "Unknown field"}]}
    with answering(lambda query: (400, body)) as url, pytest.raises(ModelOpsError, match="Unknown field"):
        DagsterClient(url).problem()
