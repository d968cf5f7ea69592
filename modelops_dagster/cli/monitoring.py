"""The part of `modelops endpoints` that tells how an endpoint did and does."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.durations import DURATION
from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.domain.monitoring import EndpointMetrics


@click.command(name="metrics")
@click.argument("name")
@click.option("--since", type=DURATION, default="24h", show_default=True, help="How far back.")
@click.option("--until", type=DURATION, default="0s", show_default=True, help="How long ago the time ends.")
@json_option
def metrics(name: str, since: timedelta, until: timedelta, as_json: bool) -> None:
    """Calls, latency, errors, availability and cost; a dash is where nothing was seen."""
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    client = ModelOpsClient.from_settings(Settings.load())
    found = client.get_endpoint_metrics(name, f"{since.total_seconds():.0f}s", f"{until.total_seconds():.0f}s")

    def render() -> None:
        title = f"{name}, {found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC"
        table(title, ("metric", "value"), [(label, "-" if value is None else value) for label, value in _rows(found)])

    emit(found, as_json, render)


@click.command(name="health")
@click.argument("name")
@json_option
def health(name: str, as_json: bool) -> None:
    """Ask the engine now whether it answers. Exits 1 unless the endpoint is healthy or sleeping."""
    from modelops_dagster.client import ModelOpsClient
    from modelops_dagster.settings import Settings

    found = ModelOpsClient.from_settings(Settings.load()).check_endpoint_health(name)
    ready = f"{found.ready_replicas} of {found.total_replicas} replicas ready"
    emit(found, as_json, lambda: click.echo(f"{name}: {found.status}, {ready} {found.message}".rstrip()))
    if found.status not in ("healthy", "sleeping"):
        sys.exit(1)


COMMANDS = (metrics, health)


def _rows(found: "EndpointMetrics") -> list[tuple[str, str | None]]:
    counted = None
    if found.counted_since is not None:
        since = f"by the engine since {found.counted_since:%Y-%m-%d %H:%M} UTC; the gateway saw none"
        counted = "by the gateway" if found.source == "gateway" else since
    return [
        ("requests", str(found.request_count)),
        ("counted", counted),
        ("latency, average", _ms(found.avg_latency_ms)),
        ("latency, p50 / p95", _pair(found.p50_latency_ms, found.p95_latency_ms)),
        ("first token, average", _ms(found.avg_ttft_ms)),
        ("first token, p50 / p95", _pair(found.p50_ttft_ms, found.p95_ttft_ms)),
        ("error rate", _percent(found.error_rate)),
        ("failed by the server", str(found.server_error_count)),
        ("refused, the client's fault", str(found.client_error_count)),
        ("turned away (429)", str(found.throttled_count)),
        ("left by the client", str(found.abandoned_count)),
        ("tokens in / out", f"{found.prompt_tokens} / {found.completion_tokens}"),
        ("availability", _percent(found.availability)),
        ("replicas ready", f"{found.ready_replicas} of {found.total_replicas}"),
        ("replica hours", f"{found.replica_hours:.3f}"),
        ("cost", None if found.cost_usd is None else f"{found.cost_usd:.4f} USD"),
        (
            "cost per million tokens",
            None if found.cost_usd_per_million_tokens is None else f"{found.cost_usd_per_million_tokens:.4f} USD",
        ),
    ]


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} ms"


def _pair(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.0f} / {high:.0f} ms"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f} %"
