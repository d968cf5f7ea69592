"""The gateway's benchmarks, small: that they measure, and the part of their bars that no busy machine can spoil."""

from bench import gateway_overhead, route_flips


def test_no_call_fails_while_weights_flip() -> None:
    # few calls: those that a machine cannot serve in a minute fail without a flip as well
    figures = {f.metric: f.value for f in route_flips.run(flips=30, calls_per_s=5)}
    assert figures["failed_requests"] == 0
    assert figures["requests"] > 5
    assert figures["visible_p99_s"] >= figures["visible_p50_s"] > 0


def test_the_gateway_is_compared_with_the_stock_proxy() -> None:
    figures = {f.metric: f.value for f in gateway_overhead.run(pairs=30, slices=2, calls=24)}
    assert figures["throughput_ratio"] > 0.3, "less than a third of stock LiteLLM is no noise"
    assert figures["ours_p50_ms"] > 0
    assert figures["stock_calls_per_s"] > 0
