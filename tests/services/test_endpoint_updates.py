"""What changes while an endpoint runs, what needs it Stopped, and what needs another endpoint."""

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import Conflict, InvalidSpec, NoSuchEndpoint
from modelops_dagster.domain.gateway import RouteTarget
from tests.fakes.stack import Stack, wait_until
from tests.services.gateway_process import Gateway


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("updates")).up()
    yield stack
    stack.down()


def test_what_people_and_the_gateway_read_changes_at_once(stack: Stack):
    before = stack.ready(name="live")
    after = stack.client.update_endpoint("live", usd_per_hour=3, priority="production", scale_to_zero_enabled=False)
    assert (after.spec.usd_per_hour, after.spec.priority) == (3.0, "production")
    assert (after.state, after.pid, after.url) == (EndpointState.RUNNING, before.pid, before.url)
    scaled = stack.client.configure_autoscaling("live", [{"metric": "cpu_usage", "target": 0.7}], cooldown_period=300)
    assert scaled.spec.autoscale_config is not None
    assert scaled.spec.autoscale_config.targets[0].target == 70.0
    # a spec that differs in such fields only is the same engine
    put = stack.client.apply(stack.spec(name="live", usd_per_hour=4))
    assert (put.pid, put.spec.usd_per_hour) == (before.pid, 4.0)
    assert stack.client.update_endpoint("live", usd_per_hour=4).since == before.since


def test_a_new_price_and_a_new_longest_attempt_reach_the_routes_by_themselves(stack: Stack):
    status = stack.ready("--tokens-per-second", "4", name="priced", request_timeout_seconds=60)
    gateway = Gateway(stack.home)
    gateway.wait_ready()
    try:
        served = {"served_model_name": "priced@abc", "commit_hash": "c" * 40, "usd_per_hour": 0.36}
        gateway.put("acme/priced", RouteTarget(endpoint="priced", url=str(status.url), **served))
        key = gateway.key()

        def ask() -> httpx.Response:
            return gateway.post(key, "acme/priced", body={"max_tokens": 4})

        answer = ask()
        assert answer.status_code == 200, answer.text
        cheap = gateway.rows(answer.headers["x-litellm-call-id"])[0]["cost_usd"]
        stack.client.update_endpoint("priced", request_timeout_seconds=0.2)
        refused = wait_until(ask, lambda a: a.status_code != 200)
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "endpoint_timeout")
        stack.client.update_endpoint("priced", request_timeout_seconds=None, usd_per_hour=3600)
        answer = wait_until(ask, lambda a: a.status_code == 200)
        dear = gateway.rows(answer.headers["x-litellm-call-id"])[0]["cost_usd"]
        assert dear > 100 * cheap > 0, "a dollar a second, and not a tenth of a cent"
    finally:
        gateway.stop()


def test_what_is_started_needs_a_stop_or_a_restart(stack: Stack):
    before = stack.ready(name="still")
    with pytest.raises(Conflict, match="must be Stopped before engine_args can change"):
        stack.client.update_endpoint("still", engine_args=["--child"])
    assert stack.client.get("still") == before
    replaced = stack.client.update_endpoint("still", engine_args=["--child"], restart=True)
    assert replaced.spec.engine_args == ("--child",)
    after = stack.client.wait_ready("still", 30)
    assert after.pid not in (None, before.pid)


def test_a_stopped_endpoint_stays_stopped(stack: Stack):
    stack.ready(name="rests")
    stack.client.stop("rests")
    stack.client.wait_stopped("rests")
    changed = stack.client.update_endpoint("rests", engine_args=["--child"], visibility="public")
    assert (changed.state, changed.desired) == (EndpointState.STOPPED, "Stopped")
    stack.client.start("rests")
    started = stack.client.wait_ready("rests", 30)
    assert (started.spec.engine_args, started.spec.visibility) == (("--child",), "public")


def test_what_is_refused(stack: Stack):
    stack.ready(name="same")
    for changes, said in (
        ({"served_model_name": "other"}, "make another endpoint"),
        ({"colour": "red"}, "is not a field of a spec"),
        ({"gpus": "many"}, "gpus: Input should be a valid integer"),
        ({"min_replicas": 3}, "must be at least min_replicas"),
        ({"nodes": 2, "gpus": 4}, "needs the Kubernetes backend"),
        ({"engine_args": ["--no-such"]}, "has no argument"),
        ({"replicas": 2, "max_replicas": 3}, "replicas is a fixed number"),
    ):
        with pytest.raises(InvalidSpec, match=said):
            stack.client.update_endpoint("same", **changes)  # type: ignore[arg-type]
    with pytest.raises(NoSuchEndpoint):
        stack.client.update_endpoint("nobody", usd_per_hour=1)
    key = (stack.home / "secrets" / "controller.token").read_text().strip()
    answer = httpx.patch(
        f"http://127.0.0.1:{stack.port}/v1/endpoints/same", content="[]", headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 422


def modelops(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.modelops("endpoints", *arguments)


def test_by_command(stack: Stack):
    stack.ready(name="told", scale_to_zero=True)
    done = modelops(stack, "update", "told", "-o", "autoscale_config.targets=[{metric: cpu, target: 5}]",
                    "-o", "autoscale_config.cooldown_period=600", "-o", "cpu_limit=2")  # fmt: skip
    assert (done.returncode, "must be Stopped before cpu_limit can change" in done.stderr) == (2, True)
    done = modelops(stack, "update", "told", "-o", "autoscale_config.targets=[{metric: cpu, target: 5}]",
                    "-o", "autoscale_config.cooldown_period=600")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = modelops(
        stack, "update", "told", "-o", "autoscale_config.cooldown_period=700", "-o", "cpu_limit=2", "--restart"
    )
    assert done.returncode == 0, done.stderr
    assert "told: cpu_limit: noted and not enforced" in done.stderr
    status = stack.client.get("told")
    assert status is not None
    assert status.state is EndpointState.RUNNING
    assert status.spec.autoscale_config is not None
    assert (status.spec.autoscale_config.cooldown_period, status.spec.autoscale_config.targets[0].target) == (700, 5.0)
    for wrong in ("cpu_limit", "=3", "name.first=3"):
        assert modelops(stack, "update", "told", "-o", wrong).returncode == 2


def test_an_endpoint_can_be_put_there_without_starting_it(stack: Stack):
    spec = stack.spec(name="later")
    made = stack.client.apply(spec, start=False)
    assert (made.state, made.desired) == (EndpointState.STOPPED, "Stopped")
    assert stack.client.apply(spec, start=False) == made
    stack.client.start("later")
    assert stack.client.wait_ready("later", 30).spec == spec
    changed = stack.spec("--child", name="later")
    assert stack.client.apply(changed, start=False).desired == "Stopped"
    stack.client.wait_stopped("later")
    resting = stack.client.get("later")
    assert resting is not None
    assert (resting.spec, resting.state) == (changed, EndpointState.STOPPED)
