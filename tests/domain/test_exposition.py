"""Engines' own figures, from the text they show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.exposition import engine_figures, read_samples

VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="a b"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="a b"} 100.0
vllm:generation_tokens_total{engine="0",model_name="a b"} 50.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a b"} 6.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a b"} 2.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="a b"} 1.0
vllm:request_success_total{engine="0",finished_reason="error",model_name="a b"} 0.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.5",model_name="a b"} 4.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="1.0",model_name="a b"} 8.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="a b"} 8.0
vllm:e2e_request_latency_seconds_count{engine="0",model_name="a b"} 8.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="a b"} 4.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="4xx"} 2.0
http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 1.0
http_requests_total{handler="/v1/models",method="GET",status="4xx"} 99.0
"""


def test_vllm_is_read():
    figures = engine_figures([VLLM])
    assert figures is not None
    assert (figures.running, figures.waiting, figures.kv_cache_usage) == (1, 3, 0.25)
    calls = figures.calls
    assert (calls.answered, calls.server_errors, calls.client_errors, calls.abandoned) == (8, 1, 2, 1)
    assert (calls.avg_latency_ms, calls.p50_latency_ms, calls.p95_latency_ms) == (500, 500, 950)
    assert (calls.avg_ttft_ms, calls.p50_ttft_ms) == (None, None), "not shown is not 0"
    assert (calls.prompt_tokens, calls.completion_tokens) == (100, 50)


def test_replicas_are_added_up():
    figures = engine_figures([VLLM, VLLM.replace("0.25", "0.75")])
    assert figures is not None
    assert (figures.calls.answered, figures.waiting, figures.kv_cache_usage) == (16, 6, 0.75)
    assert figures.calls.p95_latency_ms == 950


def test_a_quantile_above_every_bound_is_the_highest_one():
    text = 'engine_requests_running 0\nengine_request_seconds_bucket{le="1"} 0\n'
    figures = engine_figures([text + 'engine_request_seconds_bucket{le="+Inf"} 4\n'])
    assert figures is not None
    assert figures.calls.p50_latency_ms == 1000


def test_an_engine_that_shows_nothing_we_know_has_no_figures():
    assert engine_figures([]) is None
    assert engine_figures(["<html>not found</html>", "up 1\n"]) is None


@given(st.lists(st.text(max_size=60) | st.sampled_from(VLLM.splitlines())).map("\n".join))
def test_no_text_breaks_it(text: str):
    read_samples(text)
    engine_figures([text])


@pytest.mark.parametrize("line", ["a NaN", "a +Inf", "a one", "a{b=} 1 2 3", "{} 1"])
def test_lines_that_are_no_figure_are_left_out(line: str):
    assert not read_samples(line)
