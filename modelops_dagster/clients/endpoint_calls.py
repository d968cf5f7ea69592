"""What the gateway's call log says about one endpoint."""

from datetime import UTC, datetime
from pathlib import Path

from modelops_dagster.clients.calls import CLIENT_LEFT, CLIENTS_FAULT, UNFINISHED, query_calls
from modelops_dagster.domain.endpoints import ENDPOINT_NAME
from modelops_dagster.domain.errors import NoSuchEndpoint
from modelops_dagster.domain.monitoring import Calls

_THROTTLED = "429"


def endpoint_calls(root: Path, endpoint: str, since: datetime, until: datetime) -> Calls:
    """The calls that reached the endpoint in that time; copies made for a shadow are none.

    A call that failed here and was answered by another endpoint counts as failed here. Times are of answered calls.

    Args:
        root: of the call log.
        endpoint: its name.
        since: UTC.
        until: UTC; not part of the range.

    Raises:
        NoSuchEndpoint: no endpoint can have that name.
    """
    if not ENDPOINT_NAME.fullmatch(endpoint):
        raise NoSuchEndpoint(f"There is no endpoint {endpoint!r}; `modelops endpoints list` shows those there are.")
    mine = f"split_part(failure.deployment, '@', 1) = '{endpoint}'"
    seen = f"NOT shadow AND time < TIMESTAMPTZ '{until.astimezone(UTC).isoformat()}'"
    faults = ", ".join(f"'{status}'" for status in sorted(CLIENTS_FAULT))
    answers = f"""
        WITH mine AS (
            SELECT *, len(list_filter(failures, lambda failure: {mine})) AS failed_here,
                   status = 200 AND error IS NULL AS answered
            FROM calls WHERE {seen} AND endpoint = '{endpoint}' AND error IS DISTINCT FROM '{UNFINISHED}'
        )
        SELECT count(*) FILTER (WHERE answered) AS answered,
               count(*) FILTER (WHERE status = 200 AND NOT answered AND failed_here = 0) AS broken,
               count(*) FILTER (WHERE status = {CLIENT_LEFT}) AS abandoned,
               1000 * avg(latency_s) FILTER (WHERE answered) AS avg_latency_ms,
               1000 * quantile_cont(latency_s, 0.5) FILTER (WHERE answered) AS p50_latency_ms,
               1000 * quantile_cont(latency_s, 0.75) FILTER (WHERE answered) AS p75_latency_ms,
               1000 * quantile_cont(latency_s, 0.9) FILTER (WHERE answered) AS p90_latency_ms,
               1000 * quantile_cont(latency_s, 0.95) FILTER (WHERE answered) AS p95_latency_ms,
               1000 * avg(ttft_s) FILTER (WHERE answered) AS avg_ttft_ms,
               1000 * quantile_cont(ttft_s, 0.5) FILTER (WHERE answered) AS p50_ttft_ms,
               1000 * quantile_cont(ttft_s, 0.95) FILTER (WHERE answered) AS p95_ttft_ms,
               coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens,
               coalesce(sum(completion_tokens), 0)::BIGINT AS completion_tokens
        FROM mine
    """  # noqa: S608 - an endpoint's name holds letters, digits and '-_.' only
    failed = f"""
        SELECT count(*) FILTER (WHERE failure.status IN ({faults})) AS client_errors,
               count(*) FILTER (WHERE failure.status = '{_THROTTLED}') AS throttled,
               count(*) AS failed
        FROM (SELECT unnest(failures) AS failure FROM calls WHERE {seen}) WHERE {mine}
    """  # noqa: S608
    answer = query_calls(root, answers, since=since)[0]
    failure = query_calls(root, failed, since=since)[0]
    servers = answer.pop("broken") + failure.pop("failed") - failure["client_errors"] - failure["throttled"]
    times = {name: value and round(value, 3) for name, value in answer.items() if name.endswith("_ms")}
    return Calls(**{**answer, **times, **failure, "server_errors": servers})
