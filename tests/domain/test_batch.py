"""The lines of a batch: what is taken, what is refused and where, and what a kill leaves."""

import json
from typing import Any

import pytest

from modelops_dagster.domain.batch import answer_line, answered_ids, error_line, parse_requests
from modelops_dagster.domain.errors import InvalidSpec


def line(custom_id: str = "a", url: str = "/v1/chat/completions", **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m", **body}})


def test_requests_come_out_with_the_alias_where_one_is_given() -> None:
    lines = [line("a"), "", line("b", model="other")]
    assert [(r.custom_id, r.body["model"]) for r in parse_requests(lines)] == [("a", "m"), ("b", "other")]
    assert {r.body["model"] for r in parse_requests(lines, alias="acme/x")} == {"acme/x"}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "no request"),
        (["{"], "line 1"),
        ([line("a"), line("a")], "line 2: custom_id 'a' comes twice"),
        ([line(""), line("a")], "line 1: custom_id"),
        ([line(url="/v1/images")], "line 1: url"),
        ([line("a"), line("b", url="/v1/completions")], "line 2: a batch goes to one path"),
        ([line(stream=True)], "does not stream"),
        ([line(model=None)], "names no model"),
        ([line().replace("POST", "GET")], "line 1: method"),
    ],
)
def test_a_line_that_does_not_hold_is_named(lines: list[str], told: str) -> None:
    with pytest.raises(InvalidSpec, match=told):
        list(parse_requests(lines))


def test_an_answer_is_a_line_and_a_cut_line_is_none() -> None:
    request = next(parse_requests([line("a")]))
    whole = answer_line(request, answer_id="1", status=200, body={"x": 1})
    bad = error_line(request.model_copy(update={"custom_id": "b"}), answer_id="2", code="no_answer", message="gone")
    assert json.loads(whole)["response"]["body"] == {"x": 1}
    assert json.loads(bad)["error"]["code"] == "no_answer"
    assert answered_ids([whole, bad, whole[:20]]) == {"a", "b"}
