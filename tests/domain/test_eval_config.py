"""NeMo Evaluator's files, both vintages: the chain they resolve to, and what is refused."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelops_dagster.clients.gauntlet.eval_file import asked_suites
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.adapter_config import legacy_chain, service_chain
from modelops_dagster.domain.gauntlet.eval_config import EvalPlan, eval_plan, overridden
from tests.clients.gauntlet_parts import quality

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

BRING_YOUR_OWN = """
deployment:
  type: none  # No launcher deployment
target:
  api_endpoint:
    url: http://your-endpoint:8080/v1/completions
    model_id: your-model-name
    api_key: ${API_KEY}  # Optional
    adapter_config:
      # Caching for efficiency
      use_caching: true
      caching_dir: ./cache
      # Request logging for debugging
      use_request_logging: true
      max_logged_requests: 10
      # Custom processing
      use_reasoning: true
      start_reasoning_token: "<think>"
      end_reasoning_token: "</think>"
evaluation:
  tasks:
    - name: mmlu_pro
    - name: gsm8k
"""
ITS_CHAIN = [
    ("request_logging", {"max_requests": 10}),
    (
        "caching",
        {
            "cache_dir": "./cache", "reuse_cached_responses": True, "save_requests": True, "save_responses": True,
            "max_saved_requests": 5, "max_saved_responses": 5,
        },
    ),
    ("endpoint", {}),
    ("response_stats", {"cache_dir": "./cache/response_stats_cache"}),
    (
        "reasoning",
        {
            "start_reasoning_token": "<think>", "end_reasoning_token": "</think>",
            "cache_dir": "./cache/reasoning_stats_cache",
        },
    ),
]  # fmt: skip


def plan(text: str, **variables: str) -> EvalPlan:
    return eval_plan(yaml.safe_load(text), variables)


def links(found: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(i.name, i.given) for i in found.interceptors]


@pytest.mark.parametrize("text", [BRING_YOUR_OWN, (EXAMPLES / "bring_your_own.yaml").read_text()])
def test_the_documented_file_resolves_to_the_chain_of_0_2_8(text: str) -> None:
    found = plan(text)
    assert links(found.chain) == ITS_CHAIN
    assert [(h.name, h.given) for h in found.chain.hooks] == [
        ("post_eval_report", {"report_types": ["html", "json"], "html_report_size": 5})
    ]
    assert (found.url, found.model_id) == ("http://your-endpoint:8080/v1/completions", "your-model-name")
    assert (found.api_key_name, found.vintage) == ("API_KEY", "0.2")
    assert [t.name for t in found.tasks] == ["mmlu_pro", "gsm8k"]


def test_without_an_adapter_config_there_is_the_default_chain() -> None:
    assert [name for name, _ in links(legacy_chain(None))] == ["caching", "endpoint", "response_stats"]


def test_a_file_without_tasks_or_without_an_adapter_config_holds() -> None:
    whole = yaml.safe_load(BRING_YOUR_OWN)
    adapters_only = eval_plan({"target": whole["target"]}, {})
    assert (links(adapters_only.chain), adapters_only.tasks) == (ITS_CHAIN, ())
    bare = {k: v for k, v in whole["target"]["api_endpoint"].items() if k != "adapter_config"}
    basic = eval_plan({**whole, "target": {"api_endpoint": bare}}, {})
    assert [name for name, _ in links(basic.chain)] == ["caching", "endpoint", "response_stats"]


def test_every_flag_has_its_interceptor() -> None:
    found = legacy_chain(
        {
            "use_system_prompt": True, "custom_system_prompt": "Be kind.", "params_to_add": {"top_k": 1},
            "headers_to_add": {"X-Lane": "b"}, "use_response_logging": True, "max_logged_responses": 3,
            "process_reasoning_traces": True, "include_if_reasoning_not_finished": True, "track_reasoning": False,
            "use_progress_tracking": True, "progress_tracking_url": "http://h/p", "progress_tracking_interval": 5,
            "use_raise_client_errors": True, "generate_html_report": False, "use_caching": False,
        }
    )  # fmt: skip
    assert links(found) == [
        ("system_message", {"system_message": "Be kind."}),
        ("payload_modifier", {"params_to_add": {"top_k": 1}, "headers_to_add": {"X-Lane": "b"}}),
        ("endpoint", {}),
        ("response_stats", {}),
        ("response_logging", {"max_responses": 3}),
        (
            "reasoning",
            {
                "end_reasoning_token": "</think>",
                "include_if_not_finished": True,
                "enable_reasoning_tracking": False,
            },
        ),
        (
            "progress_tracking",
            {"progress_tracking_url": "http://h/p", "progress_tracking_interval": 5, "request_method": "POST"},
        ),
        ("raise_client_errors", {}),
    ]
    assert found.hooks == ()


def test_a_list_of_interceptors_stands_alone() -> None:
    names = ["request_logging", {"name": "caching", "enabled": False}, "endpoint", "reasoning"]
    assert [n for n, _ in links(legacy_chain({"interceptors": names}))] == ["request_logging", "endpoint", "reasoning"]
    with pytest.raises(InvalidSpec, match="exclude each other"):
        legacy_chain({"interceptors": names, "use_caching": True})


def test_a_service_of_0_3_unwinds_answers_in_reverse_and_adds_the_endpoint() -> None:
    found, limits = service_chain(
        [
            {"name": "endpoint", "config": {"extra_headers": {"X-A": "1"}, "request_timeout": 9, "max_retries": 2}},
            {"name": "logging", "config": {}}, {"name": "caching", "config": {"bypass": True}}, "reasoning",
            {"name": "response_stats", "config": {"every": 50}}, "streaming",
            {"name": "progress_tracking", "config": {"webhook_url": "http://h/p", "every": 10}},
        ],
        "services.a.proxy.interceptors",
    )  # fmt: skip
    assert [name for name, _ in links(found)] == [
        "payload_modifier", "request_logging", "caching", "endpoint", "progress_tracking", "response_stats",
        "reasoning",
        "response_logging",
    ]  # fmt: skip
    assert found.named("caching").reuse_cached_responses is False
    assert limits == {"request_timeout": 9, "max_retries": 2}


def test_the_0_3_example_is_understood() -> None:
    found = eval_plan(yaml.safe_load((EXAMPLES / "bring_your_own_services.yaml").read_text()), {})
    assert (found.api, found.model_id, found.api_key_name) == ("chat", "your-model-name", "API_KEY")
    assert [(t.name, t.params.limit_samples) for t in found.tasks] == [("quality", 50)]
    assert [n for n, _ in links(found.chain)] == [
        "payload_modifier",
        "caching",
        "endpoint",
        "reasoning",
        "response_stats",
    ]


def test_values_are_set_from_the_command_line_and_from_variables() -> None:
    document = overridden(
        yaml.safe_load(BRING_YOUR_OWN),
        ["target.api_endpoint.url=http://${HOST}:1/v1", "+config.params.parallelism=7", "deployment.type=none"],
        yaml.safe_load,
    )
    found = eval_plan(document, {"HOST": "h"})
    assert found.url == "http://h:1/v1"
    assert {t.params.parallelism for t in found.tasks} == {7}
    with pytest.raises(InvalidSpec, match="HOST, which is not set"):
        eval_plan(document, {})
    with pytest.raises(InvalidSpec, match="not of the form"):
        overridden({}, ["a"], yaml.safe_load)


def test_parameters_hold_for_every_suite_where_no_task_is_named() -> None:
    document = yaml.safe_load(BRING_YOUR_OWN)
    old = eval_plan(document | {"evaluation": {"overrides": {"config.params.limit_samples": 4}}}, {})
    new = {"nemo_evaluator_config": {"config": {"params": {"limit_samples": 4}}}, "env_vars": {"A": "B"}}
    assert old == eval_plan(document | {"evaluation": new}, {})
    assert old.tasks == ()
    assert {a.suite.spec.limit for a in asked_suites(old, [quality(9)])} == {4}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deployment": {"type": "vllm"}}, "deploys nothing"),
        ({"target": {"api_endpoint": {"url": "http://h"}}}, r"model_id is missing"),
        ({"target": {"api_endpoint": {"url": "h", "model_id": "m", "api_key": "sk-123"}}}, "a key in clear"),
        ({"target": {"api_endpoint": {"url": "h", "model_id": "m", "typ": "chat"}}}, "no such field"),
        ({"target": {"api_endpoint": {"url": "h", "model_id": "m", "type": "embedding"}}}, "use undefined, chat"),
        ({"evaluation": {"tasks": [{"nom": "x"}]}}, "an entry has no name"),
        ({"config": {"params": {"paralelism": 2}}}, "evaluation.tasks.mmlu_pro.paralelism"),
        ({"config": {"params": {"paralelism": 2}}, "evaluation": {}}, "evaluation.paralelism"),
        (
            {"evaluation": {"params": {"limit_samples": 4}}},
            "parameters stand under nemo_evaluator_config.config.params",
        ),
        ({"evaluation": {"tasks": [{"name": "x", "parms": {}}]}}, r"evaluation.tasks.x.parms: there is no such field"),
        ({"evaluation": {"tasks": [{"name": "x", "params": 3}]}}, r"evaluation.tasks.params is 3, not a mapping"),
        ({"evaluation": {"overrides": {"target.url": "x"}}}, r"only config.params.\* can be set here"),
        ({"evaluatoin": {"tasks": []}}, "is it evaluation"),
    ],
)
def test_what_does_not_hold_is_one_sentence_that_names_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        eval_plan(yaml.safe_load(BRING_YOUR_OWN) | change, {})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"use_cashing": True}, "use_cashing: there is no such flag"),
        ({"use_nvcf": True}, "use_nvcf"),
        ({"interceptors": ["nvcf", "endpoint"]}, "is not offered here"),
        ({"discovery": {"modules": ["evil"]}}, "loads code of your own"),
    ],
)
def test_what_we_do_not_do_is_refused_and_not_ignored(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        legacy_chain(flags)


def test_neither_vintage() -> None:
    with pytest.raises(InvalidSpec, match="neither `target`"):
        eval_plan({"model": "m"}, {})


EVERYTHING = """
deployment: {type: none}
execution: {output_dir: x}
config: {type: quality, output_dir: x, params: {limit_samples: 3, temperature: 0.5}}
target:
  api_endpoint:
    url: http://h/v1
    model_id: m
    type: chat
    stream: true
    api_key_name: K
    adapter_config:
      interceptors: [{name: caching, config: {cache_dir: x}}, {name: endpoint, enabled: true}]
      post_eval_hooks: [{name: post_eval_report, config: {report_types: [html]}}]
evaluation:
  nemo_evaluator_config: {config: {params: {parallelism: 2}}}
  overrides: {config.params.max_retries: 2}
  tasks:
    - name: quality
      params: {top_p: 0.5}
      overrides: {config.params.max_retries: 2}
      nemo_evaluator_config: {config: {params: {request_timeout: 3}}}
---
output: {dir: x}
services:
  mine:
    url: http://h/v1
    protocol: chat_completions
    model: m
    generation: {temperature: 0.1, top_p: 0.4, max_tokens: 3}
    proxy:
      extra_body: {a: 1}
      extra_headers: {a: b}
      interceptors:
        - {name: endpoint, config: {max_retries: 1, extra_body: {a: 1}}}
        - {name: logging, config: {output_dir: x}}
        - {name: progress_tracking, config: {every: 3, webhook_url: "http://h/"}}
        - {name: log_tokens, config: {every: 2}}
        - reasoning
benchmarks: [{name: quality, max_problems: 3, solver: {service: mine}}]
"""
ODD: tuple[Any, ...] = (3, -1, 1.5, "x", "", [], {}, None, [3], [None], [[]], {"a": 1}, True, {1: 2}, 10**400)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in the document."""
    if path:
        yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from places(value, (*path, key))


def test_whatever_stands_in_the_wrong_place_is_one_sentence() -> None:
    documents = [yaml.safe_load(path.read_text()) for path in sorted(EXAMPLES.glob("bring*.yaml"))]
    documents += yaml.safe_load_all(EVERYTHING)
    refused = 0
    for document in documents:
        suites = [quality(stands_in_for=[task.name for task in eval_plan(document, {"API_KEY": "k"}).tasks])]
        for *way, last in places(document):
            for odd in ODD:
                changed = copy.deepcopy(document)
                at = changed
                for step in way:
                    at = at[step]
                at[last] = odd
                try:
                    asked_suites(eval_plan(changed, {"API_KEY": "k"}), suites)
                except InvalidSpec as error:
                    refused += 1
                    assert "\n" not in error.sentence and error.sentence.endswith("."), error.sentence
    assert refused > 500
