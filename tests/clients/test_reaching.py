"""Whether an endpoint of somebody else's answers, as one sentence when it does not."""

import pytest

from modelops_dagster.clients.gauntlet.reaching import reach
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.gauntlet.eval_config import EvalPlan
from tests.fakes.openai_server import MODEL, OpenAIServer


def plan(url: str, model_id: str = MODEL) -> EvalPlan:
    return EvalPlan(url=url, model_id=model_id, vintage="0.3")


def test_what_is_known_of_an_endpoint_that_answers():
    with OpenAIServer().in_thread() as server:
        found = reach(plan(f"{server.url}/chat/completions"), "chat", None, 5)
    assert (found.url, found.served_model_name, found.max_context) == (server.url, MODEL, server.max_context)
    assert found.checkpoint.revision.repo_id.startswith("external/")
    assert found.checkpoint.revision.commit_hash == "0" * 40


def test_a_key_that_is_refused():
    with OpenAIServer(api_key="right").in_thread() as server:
        with pytest.raises(UserError, match=r"refuses the platform's key .*correct it"):
            reach(plan(server.url), "chat", "wrong", 5)
        assert reach(plan(server.url), "chat", "right", 5).url == server.url


def test_nobody_there():
    with OpenAIServer().in_thread() as server:
        url = server.url
    with pytest.raises(UserError, match=r"cannot be reached .* check the address"):
        reach(plan(url), "chat", None, 5)
    with pytest.raises(UserError, match="is not a URL such as"):
        reach(plan("no address"), "chat", None, 5)
