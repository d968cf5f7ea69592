"""What the controller tells about an endpoint's past and present, with the real program and the fake engine."""

import itertools
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from modelops_dagster.cli.main import cli
from modelops_dagster.clients import calls
from modelops_dagster.clients.calls import CallFile
from modelops_dagster.clients.endpoints.history import History
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import InvalidSpec, NoSuchEndpoint
from modelops_dagster.domain.monitoring import Stand
from tests.fakes.stack import Stack, wait_until


def ask(url: str) -> None:
    body = {"model": "small@abc", "messages": [{"role": "user", "content": "hello"}]}
    httpx.post(f"{url}/chat/completions", json=body, timeout=20, trust_env=False).raise_for_status()


def logged(home: Path, **more: Any) -> None:
    row = dict.fromkeys(calls.SCHEMA.names) | {"time": datetime.now(UTC), "call_id": "a", "status": 200}
    row |= {"shadow": False, "failures": [], "endpoint": "small", "latency_s": 0.5, "prompt_tokens": 7}
    CallFile(home / "gateway" / "calls").append([{**row, **more}])


def test_metrics_are_null_without_traffic_then_the_engines_then_the_gateways(stack: Stack):
    stack.settings = stack.settings.model_copy(update={"endpoint_usd_per_hour": 2.0})
    client = stack.up().client
    status = stack.ready()
    idle = client.get_endpoint_metrics("small")
    assert (idle.request_count, idle.source, idle.counted_since) == (0, None, None)
    assert (idle.avg_latency_ms, idle.error_rate, idle.cost_usd_per_million_tokens) == (None, None, None)
    assert (idle.ready_replicas, idle.total_replicas, idle.requests_waiting) == (1, 1, 2)
    assert idle.availability == 1
    assert idle.price_per_hour == 2

    assert status.url is not None
    ask(status.url)
    direct = client.get_endpoint_metrics("small")
    assert (direct.source, direct.request_count, direct.avg_latency_ms) == ("engine", 1, 250)
    assert (direct.prompt_tokens, direct.completion_tokens) == (3, 5)
    assert direct.counted_since is not None
    assert direct.cost_usd_per_million_tokens is not None

    logged(stack.home)
    through = client.get_endpoint_metrics("small", since="1h")
    assert (through.source, through.request_count, through.avg_latency_ms) == ("gateway", 1, 500)
    assert (through.prompt_tokens, through.error_rate) == (7, 0)
    past = client.get_endpoint_metrics("small", since=datetime.now(UTC) - timedelta(hours=9), until="1h")
    assert (past.availability, past.replica_hours, past.observed_hours) == (None, 0, 0)
    client.update_endpoint("small", usd_per_hour=5)  # the spec's own price goes before the home's
    assert client.get_endpoint_metrics("small").price_per_hour == 5


def test_a_crash_costs_availability_and_a_stop_on_purpose_does_not(stack: Stack):
    client = stack.up().client
    status = stack.ready()
    assert status.pid is not None
    os.kill(status.pid, 9)
    wait_until(lambda: client.get("small"), lambda s: s is not None and s.restarts == 1 and s.url is not None)
    after = client.get_endpoint_metrics("small")
    assert after.availability is not None
    assert after.availability < 1
    client.stop("small")
    client.wait_stopped("small")
    history = History(stack.home / "controller" / "history")
    stands = wait_until(lambda: history.stands("small"), lambda s: (s[-1].expected, s[-1].replicas) == (False, 0))
    assert client.get_endpoint_metrics("small").observed_hours * 3600 == pytest.approx(
        sum((b.at - a.at).total_seconds() for a, b in itertools.pairwise(stands) if a.expected), abs=0.01
    )


def test_health_asks_now(stack: Stack):
    client = stack.up().client
    stack.ready()
    assert client.check_endpoint_health("small").status == "healthy"
    client.stop("small")
    client.wait_stopped("small")
    health = client.check_endpoint_health("small")
    assert (health.status, health.ready_replicas, health.total_replicas) == ("stopped", 0, 0)
    assert datetime.now(UTC) - health.last_check < timedelta(seconds=20)
    client.apply(stack.spec("--fail-line", "ValueError: no", name="broken"))
    client.wait_ready("broken", 60)
    failed = client.check_endpoint_health("broken")
    assert (failed.status, failed.state) == ("unhealthy", EndpointState.DEPLOY_FAILED)
    assert "broken" in failed.message
    with pytest.raises(NoSuchEndpoint):
        client.check_endpoint_health("nobody")
    with pytest.raises(InvalidSpec, match="turn it round"):
        client.get_endpoint_metrics("small", since="1h", until="2h")


def test_commands_tell_the_same(stack: Stack):
    stack.up()
    stack.ready()
    logged(stack.home)

    def modelops(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["endpoints", *arguments], env=stack.settings.environ())
        assert done.exit_code == 0, done.output
        return done.stdout

    shown = modelops("metrics", "small", "--since", "2h")
    assert "by the gateway" in shown
    assert "500 / 500 ms" in shown
    assert json.loads(modelops("metrics", "small", "--json"))["request_count"] == 1
    assert modelops("health", "small").startswith("small: healthy, 1 of 1 replicas ready")
    stack.client.stop("small")
    stack.client.wait_stopped("small")
    done = CliRunner().invoke(cli, ["endpoints", "health", "small"], env=stack.settings.environ())
    assert done.exit_code == 1


def test_the_past_survives_a_kill_and_goes_with_the_endpoint(stack: Stack):
    stack.up()
    stack.ready()
    stack.kill()
    folder = stack.home / "controller" / "history"
    beat = folder / ".beat"
    os.utime(beat, (time.time() - 3600, time.time() - 3600))
    stack.up()
    (absence,) = History(folder).absences()
    assert absence.end - absence.begin == pytest.approx(timedelta(hours=1), abs=timedelta(minutes=2))
    assert wait_until(stack.state, lambda state: state is EndpointState.RUNNING)
    assert History(folder).stands("small")
    stack.client.delete("small")
    stack.client.wait_deleted("small")
    assert History(folder).stands("small") == []


def test_a_line_that_a_kill_cut_short_is_left_out_and_nothing_is_noted_twice(tmp_path: Path):
    history = History(tmp_path)
    first = Stand(at=datetime.now(UTC), expected=True, answering=True, replicas=1)
    history.note("small", first)
    with (tmp_path / "small.jsonl").open("a") as out:
        out.write('{"at": "2026')
    again = History(tmp_path)
    again.note("small", first.model_copy(update={"at": datetime.now(UTC)}))
    assert again.stands("small") == [first]
    down = first.model_copy(update={"answering": False})
    again.note("small", down)
    assert History(tmp_path).stands("small") == [first, down]
