"""`modelops spend`: who used what through the gateway, and what it cost."""

from datetime import UTC, datetime, timedelta

import click

from modelops_dagster.cli.durations import DURATION
from modelops_dagster.cli.output import emit, json_option, table


@click.command(name="spend")
@click.option(
    "--by",
    type=click.Choice(["team", "key", "alias", "endpoint", "model"]),
    default="team",
    show_default=True,
    help="What calls are put together by; model is the commit that answered.",
)
@click.option("--since", type=DURATION, default="7d", show_default=True, help="How far back.")
@click.option("--sql", "query", help="Ask the table `calls` of that time something else, in DuckDB's SQL.")
@json_option
def command(by: str, since: timedelta, query: str | None, as_json: bool) -> None:
    """Calls, tokens and USD of the last days, most expensive first."""
    from modelops_dagster.clients.calls import query_calls, spend
    from modelops_dagster.settings import Settings

    root, began = Settings.load().home / "gateway" / "calls", datetime.now(UTC) - since
    if query is not None:
        rows = query_calls(root, query, since=began)
        columns = list(rows[0]) if rows else []
        emit(rows, as_json, lambda: table("", columns, [list(row.values()) for row in rows]))
        return
    found = spend(root, by, began)

    def render() -> None:
        if not found:
            click.echo("No calls in that time.")
            return
        rows = [
            (
                r["name"] or "(none)",
                r["calls"],
                r["failed"],
                r["prompt_tokens"],
                r["completion_tokens"],
                r["cached_tokens"],
                f"{r['cost_usd']:.6f}",
            )
            for r in found
        ]
        table("", [by, "calls", "failed", "tokens in", "tokens out", "cached", "USD"], rows)

    emit(found, as_json, render)
