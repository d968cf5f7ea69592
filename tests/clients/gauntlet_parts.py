"""Endpoints and suites for the Gauntlet's tests."""

from typing import Any

from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from tests.fakes.openai_server import MODEL, OpenAIServer
from tests.fakes.values import a_checkpoint, an_endpoint


def endpoint(server: OpenAIServer, **changes: Any) -> Endpoint:
    """An endpoint value for the fake server."""
    known = {
        "name": "org-model", "url": server.url, "served_model_name": MODEL, "max_context": server.max_context,
        "checkpoint": a_checkpoint(digest=changes.pop("digest", "sha256:1")), "tokens_per_second": 10.0,
    }  # fmt: skip
    return an_endpoint(**{**known, **changes})


def quality(count: int = 12, **changes: Any) -> Suite:
    """A dataset suite whose right answer is the last word of the question."""
    spec = {
        "name": "quality", "kind": "dataset", "title": "Quality", "samples": "quality.jsonl",
        **changes, "requests": {"concurrency": 4, "attempt_timeout_s": 5, **changes.get("requests", {})},
    }  # fmt: skip
    samples = [
        Sample.model_validate(
            {
                "id": f"q{i}",
                "input": f"Say word{i}",
                "target": f"word{i}",
                "metadata": {"category": f"group{i % 2}/x", "scorer": "includes"},
            }
        )
        for i in range(count)
    ]
    return Suite(spec=SuiteSpec.model_validate(spec), samples=tuple(samples))


def echo(body: Any) -> str:
    """The last word of what was asked, in a sentence."""
    asked = str(body["messages"][-1]["content"] if "messages" in body else body["prompt"])
    return f"Here it is for you: {asked.split()[-1]}"
