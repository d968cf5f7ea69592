"""Each serving fault turns the check that names it, and no other endpoint trait does."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.gauntlet.loading import load_suite
from modelops_dagster.clients.gauntlet.runner import ask_suite
from modelops_dagster.domain.errors import EvaluationFailed
from modelops_dagster.domain.gauntlet.contract_checks import CHECKS
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.settings import data_folder
from tests.clients.gauntlet_parts import endpoint
from tests.fakes.openai_server import OpenAIServer, last_user

STORY = (
    "Every evening the keeper climbed the narrow stairs to light the lamp and watched the ships that passed by in the "
    "dark while the waves broke on the rocks below him and the wind sang around the tower until the morning came."
)


def well(body: Mapping[str, Any]) -> str:
    return STORY if "story" in last_user(body) else "The answer to that is quite short."


def contract() -> Suite:
    suite = load_suite(data_folder("eval_datasets") / "contract.yaml")
    limits = suite.spec.requests.model_copy(update={"attempt_timeout_s": 1.0, "retries": 0})
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"requests": limits})})


def check(server: OpenAIServer) -> tuple[SuiteReport, dict[str, str]]:
    async def run() -> tuple[SuiteReport, dict[str, str]]:
        async with server.running():
            report, rows = await ask_suite(
                contract(), endpoint(server), lane="raw", run_id="r", work=Path("unused-by-this-kind")
            )
            return report, {row["sample_id"]: row["outcome_class"] for row in rows}

    return asyncio.run(run())


def failed(outcomes: Mapping[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome == "wrong"}


def test_a_healthy_endpoint_passes_everything() -> None:
    server = OpenAIServer(answer=well)
    report, outcomes = check(server)
    assert set(outcomes) == {c.name for c in CHECKS}
    assert set(outcomes.values()) == {"correct"}
    assert (report.failing, report.n_unscored) == ((), 0)
    rate, count = report.metric("pass_rate"), report.metric("failed_checks")
    assert rate is not None
    assert count is not None
    assert (rate.value, count.value) == (1.0, 0)
    assert len(server.bodies) < 50
    assert not Path("unused-by-this-kind").exists()


def test_what_is_not_offered_does_not_fail() -> None:
    report, outcomes = check(OpenAIServer(answer=well, offers=frozenset()))
    assert failed(outcomes) == set()
    missing = {n for n, o in outcomes.items() if o == "not_offered"}
    assert missing == {
        "health_answers",
        "completions_answers",
        "single_bos",
        "logprobs_are_finite",
        "json_mode_holds",
        "tool_call_holds",
    }
    assert report.n_samples == len(CHECKS) - len(missing)


def say(text: str) -> dict[str, Any]:
    return {"answer": lambda body: text if "story" not in last_user(body) else STORY}


@pytest.mark.parametrize(
    ("knobs", "checks", "fault"),
    [
        (say("Fine.<|im_end|>"), {"no_template_leak"}, "special tokens"),
        (say("I am fine " * 40), {"does_not_repeat", "ends_by_itself"}, "EOS"),
        (say("caf\ufffd and tea"), {"no_broken_characters"}, "decoder"),
        (say("зелёный дом стоит у реки"), {"reads_as_english"}, "damaged weights"),
        (say("I'm sorry, but I can't help with that."), {"benign_is_not_refused"}, "guard"),
        (
            say("It is 4</think> The answer is four."),
            {"reasoning_is_separated", "reasoning_is_outside_content"},
            "reasoning parser",
        ),
        (say("<think>Hm.</think> It is a fine answer."), {"reasoning_is_outside_content"}, "take the reasoning out"),
        ({"answer": well, "breaks": frozenset({"history"})}, {"conversation_answers"}, "earlier turns"),
        ({"answer": well, "breaks": frozenset({"errors"})}, {"errors_are_readable"}, "clients guess"),
        ({"answer": well, "breaks": frozenset({"stream_text"})}, {"streams_the_same_text"}, "loses or doubles"),
        (say(""), {"never_empty", "stream_completes", "repeatable"}, "EOS token comes first"),
        ({"answer": well, "ignores": frozenset({"stop"})}, {"stop_is_honoured"}, "stop strings"),
        (
            {"answer": well, "ignores": frozenset({"max_tokens"})},
            {"max_tokens_is_honoured", "stop_is_honoured"},
            "limit",
        ),
        ({"answer": well, "ignores": frozenset({"model"})}, {"unknown_model_is_rejected"}, "wrong route"),
        (
            {"answer": well, "ignores": frozenset({"bad_requests"})},
            {"bad_request_is_rejected"},
            "take the endpoint down",
        ),
        ({"answer": well, "ignores": frozenset({"context"})}, {"overlong_prompt_is_rejected"}, "context limit"),
        ({"answer": well, "ignores": frozenset({"system"})}, {"system_prompt_reaches_model"}, "system role"),
        ({"answer": well, "ignores": frozenset({"usage_in_stream"})}, {"usage_is_reported"}, "costs"),
        ({"answer": well, "double_bos": True}, {"single_bos"}, "BOS token is added twice"),
    ],
)
def test_each_fault_is_named(knobs: dict[str, Any], checks: set[str], fault: str) -> None:
    report, outcomes = check(OpenAIServer(**knobs))
    if "max_tokens_is_honoured" in checks:  # a text that is not cut holds a word to stop at, or not
        assert "max_tokens_is_honoured" in failed(outcomes)
    else:
        assert failed(outcomes) == checks
    assert any(fault in line for line in report.failing), report.failing
    assert all("; probable fault: " in line for line in report.failing)


def test_an_engine_that_dies_when_a_client_leaves_is_found() -> None:
    report, outcomes = check(OpenAIServer(answer=well, breaks=frozenset({"disconnect"}), token_s=0.02))
    assert outcomes["survives_a_disconnect"] == "wrong"
    assert "a client that leaves blocks its slot" in " ".join(report.failing)


def test_a_fault_that_passes_is_asked_again_and_forgiven() -> None:
    report, outcomes = check(OpenAIServer(answer=well, fault="server_error", faulty=5))
    assert failed(outcomes) == set()
    assert report.failing == ()


def test_a_dead_endpoint_is_no_verdict_on_the_model() -> None:
    async def run() -> None:
        server = OpenAIServer(url="http://127.0.0.1:9/v1")
        await ask_suite(contract(), endpoint(server), lane="raw", run_id="r", work=Path("unused"))

    with pytest.raises(EvaluationFailed, match=r"could not be scored on .*; and \d+ more\.$") as told:
        asyncio.run(run())
    assert told.value.sentence.count("could not be asked") == 3, "each request failed for the same reason"


def test_every_5xx_is_the_endpoints_fault() -> None:
    report, outcomes = check(OpenAIServer(answer=well, fault="server_error"))
    assert {"chat_answers", "burst_survives", "stream_completes"} <= failed(outcomes)
    assert "chat template" in " ".join(report.failing)
