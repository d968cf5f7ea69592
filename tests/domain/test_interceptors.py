"""The chain's pure parts: what is sent, what a cache key holds, what becomes of reasoning, what a log may show."""

from typing import Any

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Chain, Reasoning, amended, answer_key, parted
from modelops_dagster.domain.gauntlet.redaction import REDACTED, redacted
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import score_completion

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
WHO: dict[str, Any] = {"url": "http://h/v1/chat/completions", "revision": "sha256:1", "sample": "s", "epoch": 0}


def chain(*links: tuple[str, dict[str, Any]]) -> Chain:
    return Chain.model_validate({"interceptors": [{"name": n, "config": c} for n, c in (*links, ("endpoint", {}))]})


def roles(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in body["messages"]]


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [
        ("prepend", [("system", "New.\nOld."), ("user", "Hi")]),
        ("append", [("system", "Old.\nNew."), ("user", "Hi")]),
        ("replace", [("system", "New."), ("user", "Hi")]),
    ],
)
def test_a_system_message_joins_or_replaces_the_one_that_is_there(strategy: str, wanted: Any) -> None:
    body = BODY | {"messages": [{"role": "system", "content": "Old."}, *BODY["messages"]]}
    link = ("system_message", {"system_message": "New.", "strategy": strategy})
    assert roles(amended(chain(link), body)[0]) == wanted
    assert roles(amended(chain(link), BODY)[0]) == [("system", "New."), ("user", "Hi")]
    assert amended(chain(link), {"prompt": "Hi"})[0] == {"prompt": "New.\n\nHi"}
    assert roles(body)[0] == ("system", "Old."), "what was given is not changed"


def test_payload_and_headers_are_added_removed_and_renamed() -> None:
    config = {
        "params_to_add": {"top_k": 1}, "params_to_remove": ["model"], "params_to_rename": {"max_tokens": "max_new"},
        "headers_to_add": {"X-Lane": "batch", "authorization": "Basic x"}, "headers_to_remove": ["X-Old"],
        "headers_to_rename": {"X-A": "X-B"},
    }  # fmt: skip
    sent = {"Authorization": "Bearer k", "x-old": "1", "X-A": "2"}
    body, headers = amended(chain(("payload_modifier", config)), BODY, sent)
    assert body == {"messages": BODY["messages"], "max_new": 8, "top_k": 1}
    assert headers == {"X-B": "2", "X-Lane": "batch", "authorization": "Basic x"}
    assert "max_tokens" not in amended(chain(("drop_params", {"params": ["max_tokens"]})), BODY)[0]


def test_system_messages_become_one() -> None:
    messages = [{"role": r, "content": c} for r, c in (("system", "a"), ("user", "u"), ("system", "b"))]
    body, _ = amended(chain(("consolidate_system", {"separator": "|"})), {"messages": messages})
    assert roles(body) == [("system", "a|b"), ("user", "u")]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Ho"}]}, {"prompt": "p"}, {"stop": ["5"]}, {"n": 2},
        {"max_tokens": 9},
        {"response_format": {"type": "json_object"}}, {"max_completion_tokens": 8}, {"temperature": 0.5}, {"seed": 2},
        {"tools": []}, {"stream": True},
    ],
)  # fmt: skip
def test_nothing_that_may_change_an_answer_is_outside_the_cache_key(change: dict[str, Any]) -> None:
    assert answer_key(BODY | change, **WHO) != answer_key(BODY, **WHO)


@pytest.mark.parametrize("change", [{"url": "http://other/v1"}, {"revision": "2"}, {"sample": "t"}, {"epoch": 1}])
def test_another_endpoint_revision_sample_or_epoch_is_another_answer(change: dict[str, Any]) -> None:
    assert answer_key(BODY, **{**WHO, **change}) != answer_key(BODY, **WHO)
    assert answer_key(dict(reversed(BODY.items())), **WHO) == answer_key(BODY, **WHO)


SAMPLE = Sample.model_validate(
    {"id": "s", "input": "?", "target": "4", "metadata": {"category": "a", "scorer": "numeric"}}
)


def outcome(config: dict[str, Any], text: str, finish: str = "stop") -> tuple[str, float | None, str]:
    got = parted(Reasoning.model_validate(config), Completion(text=text, finish_reason=finish))
    scored = score_completion(SAMPLE, got)
    return scored.outcome_class, scored.score, got.reasoning


def test_reasoning_is_taken_out_and_unfinished_reasoning_is_not_wrong() -> None:
    square = {"start_reasoning_token": "[THINK]", "end_reasoning_token": "[/THINK]"}
    assert outcome(square, "[THINK]is it 7?[/THINK] 4") == ("correct", 1.0, "is it 7?")
    assert outcome(square, "is it 7?[/THINK] 4") == ("correct", 1.0, "is it 7?")
    assert outcome(square, "[THINK]is it 7?", "length") == ("truncated", None, "is it 7?")
    assert outcome(square, "[THINK]is it 7?", "stop") == ("truncated", None, "is it 7?")
    assert outcome(square, "5") == ("wrong", 0.0, "")
    assert outcome(square | {"include_if_not_finished": True}, "[THINK]is it 4")[:2] == ("correct", 1.0)
    separate = parted(Reasoning(migrate_reasoning_content=True), Completion(text="4", reasoning="hm"))
    assert (separate.text, separate.reasoning) == ("4", "hm")


def test_a_failed_request_keeps_its_error() -> None:
    broken = Completion(error="timeout", text="<think>")
    assert parted(Reasoning(), broken) is broken


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ([{"name": "caching"}], "'endpoint' exactly once"),
        ([{"name": "endpoint"}, {"name": "caching"}], "caching cannot come after endpoint"),
        ([{"name": "reasoning"}, {"name": "endpoint"}], "endpoint cannot come after reasoning"),
        ([{"name": "cashing"}, {"name": "endpoint"}], "there is no interceptor 'cashing'"),
        ([{"name": "caching", "config": {"dir": "x"}}, {"name": "endpoint"}], "caching: dir"),
        ([{"name": "post_eval_report"}, {"name": "endpoint"}], "is a hook"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(links: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Chain.model_validate({"interceptors": links})


def test_only_what_may_change_answers_is_part_of_the_instrument() -> None:
    logs = chain(("request_logging", {}), ("caching", {"reuse_cached_responses": True}))
    assert logs.shape is None
    one, two = (chain(("system_message", {"system_message": text})) for text in "ab")
    assert one.shape is not None
    assert one.shape != two.shape
    assert [i.name for i in one.transport.interceptors] == []
    assert [i.name for i in chain(("payload_modifier", {})).transport.interceptors] == ["payload_modifier", "endpoint"]


def test_secrets_are_left_out_of_logs_and_nothing_else() -> None:
    shown = redacted(
        {
            "headers": {"Authorization": "Bearer abcdef123", "X-Api-Key": "k", "Cookie": "c", "X-Lane": "batch"},
            "body": {"max_tokens": 5, "token": "t", "messages": [{"content": "my key is sk-abcdefgh12 and topsecret"}]},
            "secretary": "Ada",
        },
        ["topsecret"],
    )
    assert shown["headers"] == {
        "Authorization": REDACTED, "X-Api-Key": REDACTED, "Cookie": REDACTED, "X-Lane": "batch",
    }  # fmt: skip
    assert shown["body"]["max_tokens"] == 5
    assert shown["body"]["token"] == REDACTED
    assert shown["body"]["messages"][0]["content"] == f"my key is {REDACTED} and {REDACTED}"
    assert shown["secretary"] == "Ada"
