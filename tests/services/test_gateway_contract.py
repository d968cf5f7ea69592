"""What of LiteLLM's insides the gateway leans on. An upgrade that moves any of it fails here and not in production."""

import asyncio
import contextlib
import inspect
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("LITELLM_MODE", "PRODUCTION")

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_httpx import http_handler
from litellm.proxy import proxy_server
from litellm.proxy._types import LiteLLMRoutes, ProxyException, UserAPIKeyAuth
from litellm.proxy.auth import user_api_key_auth
from litellm.proxy.types_utils.utils import get_instance_fn
from litellm.types.router import Deployment, LiteLLM_Params, ModelInfo, RouterErrors
from litellm.types.utils import all_litellm_params

from modelops_dagster.domain.gateway import RouteTarget
from modelops_dagster.domain.hosted_models import HostedModels
from modelops_dagster.services.gateway import plugin
from modelops_dagster.services.gateway.admission import CALL_PATHS, steering_fields
from modelops_dagster.services.gateway.answers import NO_TARGET
from modelops_dagster.services.gateway.calls import CURRENT_CALL, Call
from modelops_dagster.services.gateway.config import AUTH, LOGGER, litellm_config
from modelops_dagster.services.gateway.repairs import keep_streams_of_second_attempts

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def deployment(
    identity: str, alias: str = "acme/tiny", url: str = "http://127.0.0.1:1/v1", weight: int = 1
) -> Deployment:
    params = LiteLLM_Params(
        model="hosted_vllm/acme/tiny", api_base=url, api_key="none", weight=weight, tags=["default"]
    )
    return Deployment(model_name=alias, litellm_params=params, model_info=ModelInfo(id=identity))


@pytest.fixture
def router() -> litellm.Router:
    settings = litellm_config()["router_settings"]
    assert isinstance(settings, dict)
    assert set(settings) <= set(litellm.Router.get_valid_args())
    return litellm.Router(model_list=[], **settings)


def test_the_router_takes_changes_and_removes_deployments_while_it_lives(router: litellm.Router) -> None:
    assert router.get_model_ids() == []
    assert router.upsert_deployment(deployment("a:acme/tiny")) is not None
    assert router.upsert_deployment(deployment("a:acme/tiny")) is None, "an unchanged deployment is left alone"
    router.upsert_deployment(deployment("a:other", alias="other"))
    assert sorted(router.get_model_ids()) == ["a:acme/tiny", "a:other"]
    router.upsert_deployment(deployment("a:acme/tiny", url="http://127.0.0.1:2/v1", weight=7))
    changed = router.get_deployment(model_id="a:acme/tiny")
    assert (changed.litellm_params.api_base, changed.litellm_params.weight) == ("http://127.0.0.1:2/v1", 7)
    assert router.get_model_ids(model_name="acme/tiny") == ["a:acme/tiny"]
    assert router.delete_deployment(id="a:acme/tiny") is not None
    assert router.delete_deployment(id="a:acme/tiny") is None
    assert router.get_model_ids() == ["a:other"]


async def choose(router: litellm.Router, alias: str) -> str:
    chosen = await router.async_get_available_deployment(model=alias, request_kwargs={"metadata": {}}, messages=[])
    return str(chosen["model_info"]["id"])


def test_an_alias_with_a_slash_is_a_name_even_when_it_starts_like_a_provider(router: litellm.Router) -> None:
    for alias in ("acme/tiny", "openai/gpt-oss-20b", "anthropic/x", "tiny"):
        router.upsert_deployment(deployment(f"a:{alias}", alias=alias))
    chosen = [asyncio.run(choose(router, a)) for a in ("acme/tiny", "openai/gpt-oss-20b", "anthropic/x", "tiny")]
    assert chosen == ["a:acme/tiny", "a:openai/gpt-oss-20b", "a:anthropic/x", "a:tiny"]


def test_the_router_asks_the_logger_which_deployments_remain(router: litellm.Router) -> None:
    target = RouteTarget(endpoint="b", url="http://127.0.0.1:1/v1", served_model_name="m", commit_hash="c" * 40)

    async def granted(call: Call | None) -> str:
        CURRENT_CALL.set(call)
        return await choose(router, "acme/tiny")

    for name in ("a", "b"):
        router.upsert_deployment(deployment(f"{name}:acme/tiny"))
    litellm.callbacks.append(plugin.logger)
    try:
        call = Call(call_id="1", path="/v1/chat/completions", grants=[lambda: {"b:acme/tiny": target}])
        assert {asyncio.run(granted(call)) for _ in range(20)} == {"b:acme/tiny"}
        with pytest.raises(Exception, match=NO_TARGET):
            asyncio.run(granted(None))
    finally:
        litellm.callbacks.remove(plugin.logger)


def test_the_hooks_have_the_names_and_arguments_litellm_calls() -> None:
    for name in ("async_filter_deployments", "async_log_success_event", "async_log_failure_event"):
        theirs = list(inspect.signature(getattr(CustomLogger, name)).parameters)
        ours = list(inspect.signature(getattr(plugin.GatewayLogger, name)).parameters)
        assert ours == theirs, name
    assert {"api_key", "key_alias", "models", "metadata"} <= set(UserAPIKeyAuth.model_fields)
    assert {"message", "type", "param", "code"} <= set(inspect.signature(ProxyException.__init__).parameters)


def test_names_in_the_configuration_are_imported_and_not_looked_for_beside_it(tmp_path: object) -> None:
    assert get_instance_fn(AUTH, config_file_path=f"{tmp_path}/litellm.yaml") is plugin.auth
    assert get_instance_fn(LOGGER, config_file_path=f"{tmp_path}/litellm.yaml") is plugin.logger


def test_the_proxy_has_the_places_the_gateway_looks_at() -> None:
    for name in ("user_custom_auth", "llm_router", "app"):
        assert hasattr(proxy_server, name), name
    assert callable(proxy_server.app.router.lifespan_context)
    assert isinstance(litellm.callbacks, list)
    settings = litellm_config()["litellm_settings"]
    assert isinstance(settings, dict)
    checks = inspect.getsource(user_api_key_auth)
    for name in settings:
        assert hasattr(litellm, name) or f'"{name}"' in checks, name
    assert '"custom_auth_run_common_checks"' in checks
    routes = {*LiteLLMRoutes.openai_routes.value, *LiteLLMRoutes.anthropic_routes.value}
    assert routes >= CALL_PATHS


def test_the_parameters_that_steer_litellm_are_known() -> None:
    forbidden = steering_fields(all_litellm_params)
    assert forbidden >= {
        "fallbacks",
        "mock_response",
        "api_base",
        "api_key",
        "model_list",
        "no-log",
        "_router_weights",
        "num_retries",
        "guardrails",
        "cache",
        "input_cost_per_token",
    }
    openai = set(litellm.OPENAI_CHAT_COMPLETION_PARAMS) - {
        *("api_base", "api_key", "api_version", "base_url", "default_headers", "deployment_id", "extra_headers"),
        *("max_retries", "organization", "request_timeout", "include_server_side_tool_invocations"),
    }
    assert not openai & forbidden, "what the OpenAI API has must stay possible"
    assert RouterErrors.no_deployments_available.value.startswith(NO_TARGET)


def test_fallbacks_and_exclusions_are_where_the_gateway_puts_and_finds_them(router: litellm.Router) -> None:
    router.fallbacks = [{"acme/tiny": ["acme/spare"]}]
    source = inspect.getsource(litellm.Router)
    assert 'kwargs.get("fallbacks", self.fallbacks)' in source, "they are read at every call"
    assert '"_excluded_deployment_ids": list(excluded)' in source
    callers = source.index("await self.async_callback_filter_deployments(")
    assert callers < source.index('.pop("_excluded_deployment_ids", None)'), "the plugin sees what is excluded"


def test_a_route_to_a_provider_is_priced_by_the_table_and_keeps_its_timeouts() -> None:
    tokens_in, tokens_out = litellm.cost_per_token(model="openai/gpt-4o-mini", prompt_tokens=1000, completion_tokens=10)
    assert (tokens_in, tokens_out) == (pytest.approx(1.5e-4), pytest.approx(6e-6))
    assert {"timeout", "stream_timeout", "tags", "api_key", "api_base"} <= set(LiteLLM_Params.model_fields)


def test_litellm_can_be_forked_after_its_import() -> None:
    """The supervisor's way of starting workers: a thread that lived before the fork would be missing after it."""
    import subprocess
    import sys

    code = "import threading, litellm.proxy.proxy_server; print([t.name for t in threading.enumerate()])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert told.stdout.strip().splitlines()[-1] == "['MainThread']"


def test_litellm_knows_every_hosted_provider() -> None:
    listed = yaml.safe_load((EXAMPLES / "hosted_models.yaml").read_text())
    for model in HostedModels.model_validate({"models": listed}).models.values():
        name, provider, *_ = litellm.get_llm_provider(model.model, api_key="sk-1")
        assert (provider, f"{provider}/{name}") == (model.provider, model.model)


async def second_attempt() -> str:
    """What LiteLLM's client has of a stream whose engine did not listen when it was asked first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.3)
        with contextlib.suppress(ConnectionError):
            writer.write(b"data: words\n\n")
            await writer.drain()
        writer.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        servers: list[asyncio.Task[asyncio.Server]] = []
        client = http_handler.AsyncHTTPHandler(timeout=10)
        make = client.create_client

        def create_client(**options: Any) -> Any:
            listener.listen()
            servers.append(asyncio.create_task(asyncio.start_server(serve, sock=listener)))
            return make(**options)

        client.create_client = create_client
        answer = await client.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", json={}, stream=True)
        text = (await answer.aread()).decode()
        await client.close()
        assert len(servers) == 1
        servers[0].result().close()
    return text


def test_a_stream_over_a_second_connection_arrives_and_litellm_alone_still_loses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = http_handler.AsyncHTTPHandler.single_connection_post_request
    assert original.__module__ == http_handler.__name__
    assert asyncio.run(second_attempt()) == "", "the repair is not needed any more: take it out"
    monkeypatch.setattr(http_handler.AsyncHTTPHandler, "single_connection_post_request", original)
    keep_streams_of_second_attempts()
    assert asyncio.run(second_attempt()) == "data: words\n\n"
