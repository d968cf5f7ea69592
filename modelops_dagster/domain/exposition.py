"""What engines say about themselves in Prometheus' text format, as the same figures whichever engine it is."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from modelops_dagster.domain.monitoring import Calls
from modelops_dagster.domain.values import Value

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
# names of vLLM 0.32 and of the Transformers server of `workers/serve_transformers`, in that order
_LATENCY = ("vllm:e2e_request_latency_seconds", "engine_request_seconds")
_TTFT = ("vllm:time_to_first_token_seconds", "engine_time_to_first_token_seconds")
_RUNNING = ("vllm:num_requests_running", "engine_requests_running")
_WAITING = ("vllm:num_requests_waiting", "engine_requests_waiting")
_FINISHED = ("vllm:request_success_total", "engine_requests_total")
_PROMPT = ("vllm:prompt_tokens_total", "engine_prompt_tokens_total")
_OUTPUT = ("vllm:generation_tokens_total", "engine_generation_tokens_total")
_KV_CACHE = ("vllm:kv_cache_usage_perc",)
_MODEL_LIST = "/v1/models"  # what readiness is asked by
_FAILED, _ABANDONED = ("error", "failed"), ("abort", "cancelled")

Samples = Mapping[str, list[tuple[dict[str, str], float]]]


class EngineFigures(Value):
    """An endpoint's engines since they started, added up. `calls` holds what reached them past the gateway too."""

    calls: Calls
    running: float | None
    waiting: float | None
    kv_cache_usage: float | None


def read_samples(text: str) -> Samples:
    """Samples by metric name; lines that are none are left out."""
    found: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line.strip())
        if match is None:
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        if math.isfinite(value):
            found[match[1]].append((dict(_LABEL.findall(match[2] or "")), value))
    return found


def engine_figures(expositions: Iterable[str]) -> EngineFigures | None:
    """What the engines of one endpoint say; None when none of them says anything we know."""
    merged: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
    for text in expositions:
        for name, samples in read_samples(text).items():
            merged[name] += samples
    if not any(name in merged for name in (*_RUNNING, *_FINISHED)):
        return None
    finished = _of(merged, _FINISHED)
    ended = {reason: int(n) for reason, n in _by_reason(finished).items()}
    requests = [(labels, n) for labels, n in merged.get("http_requests_total", []) if _asks_model(labels)]
    server_errors = int(sum(n for labels, n in requests if labels.get("status", "").startswith("5")))
    client_errors = int(sum(n for labels, n in requests if labels.get("status", "").startswith("4")))
    failed = sum(ended.pop(reason, 0) for reason in _FAILED)
    abandoned = sum(ended.pop(reason, 0) for reason in _ABANDONED)
    calls = Calls(
        answered=sum(ended.values()),
        server_errors=max(server_errors, failed),
        client_errors=client_errors,
        abandoned=abandoned,
        avg_latency_ms=_average(merged, _LATENCY),
        p50_latency_ms=_quantile(merged, _LATENCY, 0.5),
        p95_latency_ms=_quantile(merged, _LATENCY, 0.95),
        avg_ttft_ms=_average(merged, _TTFT),
        p50_ttft_ms=_quantile(merged, _TTFT, 0.5),
        p95_ttft_ms=_quantile(merged, _TTFT, 0.95),
        prompt_tokens=int(_sum(_of(merged, _PROMPT))),
        completion_tokens=int(_sum(_of(merged, _OUTPUT))),
    )
    usage = [n for _, n in _of(merged, _KV_CACHE)]
    return EngineFigures(
        calls=calls,
        running=_sum(_of(merged, _RUNNING)),
        waiting=_sum(_of(merged, _WAITING)),
        kv_cache_usage=max(usage) if usage else None,
    )


def _of(samples: Samples, names: Iterable[str]) -> list[tuple[dict[str, str], float]]:
    return [sample for name in names for sample in samples.get(name, [])]


def _sum(samples: Iterable[tuple[dict[str, str], float]]) -> float:
    return sum(value for _, value in samples)


def _by_reason(samples: Iterable[tuple[dict[str, str], float]]) -> dict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for labels, value in samples:
        found[labels.get("finished_reason") or labels.get("reason") or ""] += value
    return dict(found)


def _asks_model(labels: Mapping[str, str]) -> bool:
    handler = labels.get("handler", "")
    return handler.startswith("/v1/") and handler != _MODEL_LIST


def _average(samples: Samples, names: Iterable[str]) -> float | None:
    count = _sum(_of(samples, [f"{name}_count" for name in names]))
    return round(1000 * _sum(_of(samples, [f"{name}_sum" for name in names])) / count, 3) if count else None


def _quantile(samples: Samples, names: Iterable[str], q: float) -> float | None:
    """Prometheus' histogram_quantile: linear within the bucket, the lower bound of one without an end. In ms."""
    buckets: defaultdict[float, float] = defaultdict(float)
    for bound, value in _buckets(samples, names):
        buckets[bound] += value
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    below, lower = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= q * total:
            if math.isinf(bound):
                return round(1000 * lower, 3)
            share = (q * total - below) / (buckets[bound] - below)
            return round(1000 * (lower + (bound - lower) * share), 3)
        below, lower = buckets[bound], bound
    return None


def _buckets(samples: Samples, names: Iterable[str]) -> Iterable[tuple[float, float]]:
    for labels, value in _of(samples, [f"{name}_bucket" for name in names]):
        try:
            yield float(labels.get("le", "")), value
        except ValueError:
            continue
