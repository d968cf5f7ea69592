"""What `hosted_models.yaml` may say of each provider, and the deployment it becomes."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.gateway import Route, RouteTarget, litellm_deployments, with_targets
from modelops_dagster.domain.hosted_models import HostedModel, HostedModels, hosted_route, without_hosted

AT = datetime(2026, 1, 2, tzinfo=UTC)
EVERY_PROVIDER: dict[str, dict[str, Any]] = {
    "anthropic": {"model": "anthropic/claude-sonnet-4-5", "api_key_name": "ANTHROPIC_API_KEY"},
    "openai": {"model": "openai/gpt-4o-mini", "api_key_name": "OPENAI_API_KEY"},
    "azure": {
        "model": "azure/my-deployment",
        "api_key_name": "AZURE_API_KEY",
        "api_base": "https://mine.openai.azure.com",
        "api_version": "2024-10-21",
    },
    "bedrock": {
        "model": "bedrock/amazon.nova-pro-v1:0",
        "api_key_name": "AWS_BEARER_TOKEN_BEDROCK",
        "aws_region_name": "us-east-1",
    },
    "vertex_ai": {
        "model": "vertex_ai/gemini-2.5-pro",
        "api_key_name": "VERTEX_CREDENTIALS",
        "vertex_project": "acme",
        "vertex_location": "europe-west4",
    },
    "nvidia_nim": {"model": "nvidia_nim/meta/llama-3.3-70b-instruct", "api_key_name": "NVIDIA_NIM_API_KEY"},
}


@pytest.mark.parametrize("provider", EVERY_PROVIDER)
def test_every_provider_becomes_a_deployment(provider: str):
    given = EVERY_PROVIDER[provider]
    route = hosted_route(None, "smart", HostedModel.model_validate(given), AT)
    assert Route.model_validate_json(route.model_dump_json()) == route
    (deployment,) = litellm_deployments(route, {given["api_key_name"]: "sk-1"})
    params = deployment["litellm_params"]
    assert params["model"] == given["model"]
    assert params["vertex_credentials" if provider == "vertex_ai" else "api_key"] == "sk-1"
    told = {k: v for k, v in given.items() if k not in ("model", "api_key_name")}
    assert {k: params[k] for k in told} == told
    assert params["tags"] == ["preview"]
    assert "sk-1" not in route.model_dump_json()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "gpt-4o"}, "the providers are anthropic, openai, azure"),
        ({"model": "somebody/x"}, "is not provider/model"),
        ({"api_key_name": "sk-ant-123"}, "does not name a variable"),
        ({"api_key_name": "LITELLM_MASTER_KEY"}, "is never sent to an endpoint"),
        ({"api_key": "sk-1"}, "is not a field of this document"),
        ({"model": "azure/x"}, "azure must be told api_base and api_version too"),
        ({"model": "bedrock/x"}, "bedrock must be told aws_region_name too"),
        ({"api_base": "no url"}, "is not a URL"),
        ({"tags": ["shadow"]}, "is not a tag of a key"),
        ({"vertex_project": "a b"}, "characters that no such name has"),
    ],
)
def test_what_does_not_hold_is_one_sentence(changes: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as caught:
        HostedModels.model_validate({"models": {"smart": {**EVERY_PROVIDER["openai"], **changes}}})
    error = invalid_spec(caught.value)
    assert said in error.sentence
    assert error.field is not None
    assert error.field.startswith("models.smart")


def test_aliases_are_aliases():
    with pytest.raises(ValidationError, match="is not an alias"):
        HostedModels.model_validate({"models": {"not an alias": EVERY_PROVIDER["openai"]}})


def test_what_else_stands_behind_the_alias_stays():
    ours = RouteTarget(endpoint="ours", url="http://h:1/v1", served_model_name="m", commit_hash="c", weight=3)
    alone = with_targets(None, "smart", [ours], at=AT)
    both = hosted_route(alone, "smart", HostedModel.model_validate(EVERY_PROVIDER["openai"]), AT)
    assert [(t.endpoint, t.weight) for t in both.targets] == [("ours", 3), ("openai-gpt-4o-mini", 1)]
    shifted = both.model_copy(update={"targets": (ours, both.targets[1].model_copy(update={"weight": 7}))})
    other = hosted_route(shifted, "smart", HostedModel.model_validate(EVERY_PROVIDER["anthropic"]), AT)
    assert [(t.provider, t.weight) for t in other.targets] == [(None, 3), ("anthropic", 7)]
    back = without_hosted(other, AT)
    assert back is not None
    assert back.targets == (ours,)
    only = hosted_route(None, "smart", HostedModel.model_validate(EVERY_PROVIDER["openai"]), AT)
    assert without_hosted(only, AT) is None


def test_the_example_lists_every_provider():
    path = Path(__file__).resolve().parents[2] / "docs" / "examples" / "hosted_models.yaml"
    listed = HostedModels.model_validate({"models": yaml.safe_load(path.read_text())}).models
    assert {m.provider for m in listed.values()} == set(EVERY_PROVIDER)
