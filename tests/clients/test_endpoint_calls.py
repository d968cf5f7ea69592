"""One endpoint in the call log: whose fault a failed call is, and times of answered calls only."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients import calls
from modelops_dagster.clients.calls import CallFile
from modelops_dagster.clients.endpoint_calls import endpoint_calls
from modelops_dagster.domain.errors import NoSuchEndpoint
from modelops_dagster.domain.monitoring import Calls

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def row(call_id: str, **more: Any) -> dict[str, Any]:
    made = dict.fromkeys(calls.SCHEMA.names)
    made |= {"time": NOW - HOUR / 2, "call_id": call_id, "status": 200, "shadow": False, "failures": []}
    return made | {"endpoint": "small", "latency_s": 1.0} | more


def failure(endpoint: str, status: str | None) -> dict[str, Any]:
    return {"deployment": f"{endpoint}@abc", "error": "Boom", "status": status}


def seen(root: Path, endpoint: str = "small") -> Calls:
    return endpoint_calls(root, endpoint, NOW - HOUR, NOW)


def test_calls_are_told_apart_by_whose_fault_they_are(tmp_path: Path) -> None:
    CallFile(tmp_path).append(
        [
            row("ok", prompt_tokens=10, completion_tokens=5, ttft_s=0.1),
            row("slow", latency_s=3.0, prompt_tokens=10, completion_tokens=5),
            row("broken", error="MidStream", latency_s=99.0),
            row("left", status=499, error="ClientDisconnected", latency_s=99.0),
            row("fault", status=500, error="Boom", failures=[failure("small", "500")], latency_s=99.0),
            row("timeout", status=504, error="Timeout", failures=[failure("small", None)]),
            row("bad", status=400, error="BadRequest", failures=[failure("small", "400")]),
            row("busy", status=429, error="RateLimit", failures=[failure("small", "429")]),
            row("rescued", endpoint="other", failures=[failure("small", "503")]),
            row("copy", shadow=True),
            row("still", error="Unfinished"),
            row("refused", endpoint=None, status=401),
            row("old", time=NOW - 2 * HOUR),
            row("new", time=NOW + HOUR),
        ]
    )
    found = seen(tmp_path)
    assert (found.answered, found.abandoned, found.client_errors, found.throttled) == (2, 1, 1, 1)
    assert found.server_errors == 4, "a broken stream, a fault, a timeout, and one that another endpoint made good"
    assert (found.avg_latency_ms, found.p50_latency_ms, found.p95_latency_ms) == (2000, 2000, 2900)
    assert (found.avg_ttft_ms, found.p95_ttft_ms) == (100, 100)
    assert (found.prompt_tokens, found.completion_tokens) == (20, 10)
    assert (seen(tmp_path, "other").answered, seen(tmp_path, "other").server_errors) == (1, 0)


def test_a_stream_that_broke_is_one_failure_however_often_it_is_told(tmp_path: Path) -> None:
    CallFile(tmp_path).append([row("a", error="MidStream", failures=[failure("small", "500")])])
    assert (seen(tmp_path).server_errors, seen(tmp_path).count) == (1, 1)


def test_without_traffic_there_are_no_times(tmp_path: Path) -> None:
    assert seen(tmp_path) == Calls()
    CallFile(tmp_path).append([row("a", status=500, error="Boom", failures=[failure("small", "500")])])
    assert (seen(tmp_path).avg_latency_ms, seen(tmp_path).p95_ttft_ms) == (None, None)


@pytest.mark.parametrize("name", ["", "a' OR 1=1 --", "9lives"])
def test_a_name_that_no_endpoint_can_have_reaches_no_query(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoSuchEndpoint):
        endpoint_calls(tmp_path, name, NOW - HOUR, NOW)
