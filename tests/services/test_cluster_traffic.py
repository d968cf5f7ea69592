"""What happens to endpoints on a cluster while people call them, and that no call fails where something could answer.

The gateway and the controller are the real programs; pods are processes that are started, told to end and killed as a
kubelet does it, behind Services that lead to ready pods only.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from modelops_dagster.clients.registration import apply_registration
from modelops_dagster.clients.swapping import apply_swap
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.endpoints import Endpoint, EndpointState
from modelops_dagster.domain.errors import EndpointFailed
from modelops_dagster.domain.policies import SwapRule
from modelops_dagster.domain.registration import SwapRecord
from tests.clients.swap_verdicts import ALIAS, AT, COPY, RAW, endpoint, verdict
from tests.fakes.cluster.kubelet import Node
from tests.fakes.cluster.live import LiveCluster
from tests.fakes.stack import wait_until
from tests.services.cluster_traffic import SLOW, SPEED, WAIT_S, Stage, open_stage


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("traffic")
    nodes = [Node(name, gpus=2) for name in ("a", "b", "c")]
    with LiveCluster(folder, *nodes) as cluster, open_stage(folder, cluster) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    yield shared
    shared.clear()


# moving an alias from one endpoint to another


def test_canary_gets_its_share_and_then_everything(stage: Stage):
    stage.deploy("steady", *SLOW)
    stage.deploy("fresh")
    stage.put("steady")
    with stage.calls("steady") as callers:
        stage.moves.canary("steady", "fresh", 40, Bounds(), override=stage.override)
        callers.wait_for("fresh", 2)
        callers.wait_for("steady", 2)
        stage.moves.promote("steady", None)
        stage.stack.client.stop("steady")
        stage.stack.client.wait_stopped("steady", WAIT_S)
        callers.wait_for("fresh", 4)
    assert callers.failed("steady", "fresh") == []
    assert [who for *_, who in callers.calls][-3:] == ["fresh"] * 3


def test_blue_green_there_and_back(stage: Stage):
    stage.deploy("blue")
    stage.deploy("green", *SLOW)
    stage.put("blue")
    with stage.calls("blue") as callers:
        stage.moves.promote("blue", "green", override=stage.override)
        callers.wait_for("green", 3)
        stage.moves.rollback("blue", None)
        callers.wait_for("blue", 3)
        stage.delete("green")
        callers.wait_for("blue", 3)
    assert callers.failed("blue", "green") == []
    assert {who for *_, who in callers.calls} == {"blue", "green"}


# day 2: a quantized copy takes the released weights' alias over


def lane(stage: Stage, name: str) -> Endpoint:
    """The endpoint of one of the release's lanes, as the assets know it."""
    status = stage.deploy(name, *SLOW, served_model_name="m")
    found = endpoint("raw" if name == RAW else "fp8")
    return found.model_copy(update={"url": status.url})


def released(stage: Stage) -> None:
    """The released weights answer the repository's alias, since their verdict passed."""
    raw = lane(stage, RAW)
    passed = verdict("raw", against="", at=AT - timedelta(hours=1))
    apply_registration(stage.gateway.routes, stage.served, endpoint=raw, verdict=passed, at=datetime.now(UTC))


def swapped(stage: Stage, rule: SwapRule) -> SwapRecord:
    copy, found = lane(stage, COPY), verdict(swap=rule)
    at = datetime.now(UTC)
    done = apply_swap(
        stage.gateway.routes, stage.served, lambda: stage.stack.client, endpoint=copy, verdict=found, at=at
    )
    apply_registration(stage.gateway.routes, stage.served, endpoint=copy, verdict=found, at=at)
    return done


def test_copy_takes_the_alias_over_step_by_step_and_the_old_pods_end(stage: Stage):
    released(stage)
    with stage.calls(ALIAS, stage.gateway.key("preview")) as callers:
        done = swapped(stage, SwapRule(how="canary", steps=(30, 100), hold_s=2, retain_s=1))
        assert done.reason == f"{COPY} takes the alias over, 30 -> 100 %"
        wait_until(lambda: [t.endpoint for t in stage.route(ALIAS).targets], lambda names: names == [COPY], WAIT_S)
        wait_until(lambda: stage.pods(RAW), lambda pods: not pods, WAIT_S)
        callers.wait_for(COPY, 3)
    assert callers.failed(RAW, COPY) == []
    stopped = stage.stack.client.get(RAW)
    assert stopped is not None
    assert (stopped.state, stopped.desired) == (EndpointState.STOPPED, "Stopped")


def test_copy_takes_the_alias_over_at_once_where_hardware_is_short(stage: Stage):
    released(stage)
    with stage.calls(ALIAS, stage.gateway.key("preview")) as callers:
        done = swapped(stage, SwapRule(how="recreate"))
        assert done.reason == f"{COPY} has the alias, and what served it before was stopped"
        assert stage.pods(RAW) == []
        callers.wait_for(COPY, 3)
    assert callers.failed(RAW, COPY) == []


def test_swap_without_room_for_both_is_answered_by_the_fallback_meanwhile(stage: Stage):
    stage.deploy("spare")
    stage.put("spare")
    stage.deploy("wide", *SLOW, gpus=2, min_replicas=3, max_replicas=3)
    stage.put("wide", fallbacks=("spare",))
    stage.stack.client.apply(stage.stack.spec(*SPEED, name="narrow", gpus=2))
    told = wait_until(lambda: stage.stack.client.get("narrow"), lambda s: s and "No node has room" in s.message, WAIT_S)
    assert told is not None
    with stage.calls("wide") as callers:
        stage.rollout.recreate("wide", "narrow", stage.stack.client, grant=stage.override, say=lambda _: None)
        callers.wait_for("narrow", 3)
    assert callers.failed("wide", "narrow", "spare") == []


# what a cluster does to pods


def test_replaced_pods_leave_one_by_one(stage: Stage):
    stage.deploy("rolling", *SLOW, min_replicas=2, max_replicas=2)
    stage.put("rolling")
    before = stage.names("rolling")
    with stage.calls("rolling") as callers:
        stage.stack.client.apply(
            stage.stack.spec(*SPEED, *SLOW, name="rolling", min_replicas=2, max_replicas=2, priority="production")
        )
        wait_until(lambda: stage.names("rolling"), lambda names: len(names) == 2 and not names & before, WAIT_S)
        stage.all_answer("rolling", 2)
        callers.wait_for("rolling", 3)
    assert callers.failed("rolling") == []


def test_autoscaler_takes_replicas_away(stage: Stage):
    stage.deploy(
        "shrinking",
        *SLOW,
        min_replicas=1,
        max_replicas=3,
        autoscale_config={"targets": [{"metric": "cpu", "target": 80}]},
    )
    stage.put("shrinking")
    stage.cluster.scale("deployments", "shrinking-r1", 3)
    stage.all_answer("shrinking", 3)
    with stage.calls("shrinking") as callers:
        stage.cluster.scale("deployments", "shrinking-r1", 1)
        stage.all_answer("shrinking", 1)
        callers.wait_for("shrinking", 3)
    assert callers.failed("shrinking") == []


def test_drained_node_takes_one_replica_at_a_time(stage: Stage):
    for name in ("b", "c"):
        stage.cluster.nodes[name].cordoned = True
    stage.deploy("drained", *SLOW, gpus=1, min_replicas=2, max_replicas=2)
    for name in ("b", "c"):
        stage.cluster.nodes[name].cordoned = False
    stage.put("drained")
    with stage.calls("drained") as callers:
        stage.cluster.drain("a")
        stage.all_answer("drained", 2)
        callers.wait_for("drained", 3)
    assert callers.failed("drained") == []
    assert {pod["spec"]["nodeName"] for pod in stage.pods("drained")} <= {"b", "c"}


def test_evicted_replica_is_missed_by_nobody(stage: Stage):
    stage.deploy("evicted", *SLOW, min_replicas=2, max_replicas=2)
    stage.put("evicted")
    with stage.calls("evicted") as callers:
        for name in stage.names("evicted"):
            stage.cluster.evict(name, "PreemptionByScheduler")
            wait_until(lambda name=name: name not in stage.names("evicted"), timeout_s=WAIT_S)
            stage.all_answer("evicted", 2)
        callers.wait_for("evicted", 3)
    assert callers.failed("evicted") == []
    assert stage.running("evicted").restarts == 0


def test_lost_node_costs_the_calls_it_was_answering_and_no_other(stage: Stage):
    stage.deploy("lost", gpus=2, min_replicas=2, max_replicas=2)
    stage.put("lost")
    with stage.calls("lost") as callers:
        node = stage.pods("lost")[0]["spec"]["nodeName"]
        stage.cluster.power_off(node)
        off = time.monotonic()
        wait_until(lambda: not stage.cluster.nodes[node].ready, timeout_s=WAIT_S)
        stage.all_answer("lost", 2)
        callers.wait_for("lost", 4)
    assert [call for call in callers.failed("lost") if call[0] > off] == []


# engines that do not work


def test_image_that_cannot_be_pulled_never_gets_a_call(stage: Stage):
    stage.deploy("old")
    stage.put("old")
    stage.cluster.missing_images.add("acme/nothing:1")
    with stage.calls("old") as callers:
        container = {
            "deployment": {"type": "container", "image": "acme/nothing:1"},
            "ports": {"http": {"port": 8200}},
            "healthcheck": {"path": "/health", "port": 8200},
            **dict.fromkeys(("checkpoint", "checkpoint_digest", "engine"), ""),
        }
        stage.stack.client.apply(stage.stack.spec(name="no-image", **container))
        status = stage.stack.client.wait_ready("no-image", WAIT_S)
        assert (status.state, status.reason) == (EndpointState.DEPLOY_FAILED, "no_image")
        assert status.message.startswith("Image acme/nothing:1 cannot be pulled (ImagePullBackOff)")
        with pytest.raises(EndpointFailed, match="no-image is DeployFailed"):
            stage.moves.promote("old", "no-image", override=stage.override)
        callers.wait_for("old", 3)
    assert callers.failed("old") == []


def test_crash_loop_is_given_up_with_its_last_lines_and_the_others_answer(stage: Stage):
    stage.deploy("sound")
    stage.put("sound")
    stage.deploy("dying", "--die-after-s", "2.5")
    with stage.calls("sound") as callers:
        failed = wait_until(lambda: stage.stack.client.get("dying"), lambda s: s and s.failed, WAIT_S)
        assert failed is not None
        assert (failed.state, failed.reason) == (EndpointState.RUNTIME_ERROR, "crash")
        assert "ended with exit code 1 (crash)" in failed.message
        assert failed.log_tail.rstrip().endswith("ERROR: it died")
        with pytest.raises(EndpointFailed, match="dying is RuntimeError"):
            stage.moves.canary("sound", "dying", 50, Bounds(), override=stage.override)
        callers.wait_for("sound", 3)
    assert callers.failed("sound") == []


def test_replica_whose_engine_crashes_costs_the_calls_it_was_answering_and_no_other(stage: Stage):
    stage.deploy("crashing", min_replicas=2, max_replicas=2)
    stage.put("crashing")
    with stage.calls("crashing") as callers:
        stage.cluster.kill_engine(stage.pods("crashing")[0])
        died = time.monotonic()
        wait_until(lambda: sum(p["status"]["containerStatuses"][0]["restartCount"] for p in stage.pods("crashing")))
        stage.all_answer("crashing", 2)
        callers.wait_for("crashing", 4)
    assert [call for call in callers.failed("crashing") if call[0] > died] == []
    assert stage.running("crashing").condition is None


# the controller


@pytest.mark.parametrize("records", ["kept", "lost"])
def test_killed_controller_is_missed_by_nobody_and_the_next_one_takes_over(stage: Stage, records: str):
    stage.deploy("lasting", min_replicas=2, max_replicas=2)
    stage.put("lasting")
    before = stage.names("lasting")
    with stage.calls("lasting") as callers:
        stage.stack.kill()
        callers.wait_for("lasting", 3)
        if records == "lost":
            for path in (stage.stack.home / "controller" / "endpoints").iterdir():
                path.unlink()
        stage.stack.up()
        stage.running("lasting")
        callers.wait_for("lasting", 3)
    assert callers.failed("lasting") == []
    assert stage.names("lasting") == before
