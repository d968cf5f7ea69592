"""What GET /metrics shows."""

import prometheus_client  # type: ignore[import-not-found, unused-ignore]  # lives in the engine's environment only

CONTENT_TYPE: str = prometheus_client.CONTENT_TYPE_LATEST
WAITING = prometheus_client.Gauge("engine_requests_waiting", "Requests in the queue")
RUNNING = prometheus_client.Gauge("engine_requests_running", "Requests being answered")
FINISHED = prometheus_client.Counter("engine_requests", "Finished requests by how they ended", ["reason"])
PROMPT_TOKENS = prometheus_client.Counter("engine_prompt_tokens", "Tokens read")
OUTPUT_TOKENS = prometheus_client.Counter("engine_generation_tokens", "Tokens generated")
TTFT = prometheus_client.Histogram("engine_time_to_first_token_seconds", "From arrival to the first token")
DURATION = prometheus_client.Histogram("engine_request_seconds", "From arrival to the last token")


def exposition() -> bytes:
    """Every metric in Prometheus' text format."""
    text: bytes = prometheus_client.generate_latest()
    return text
