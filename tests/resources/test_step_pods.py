"""Steps in pods, with Dagster's own client against an API server: done, taken away and done again, failed, killed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.lineage import read_value
from modelops_dagster.domain.checkpoints import Checkpoint
from tests.assets.quantized_chain import REPO, Chain, materialized
from tests.clients.quantizing import write_quantizer
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.stack import wait_until

WORKER = Path(__file__).parents[1] / "fakes" / "quantizer_pod.py"
ROLES = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base" / "dagster.yaml"
IMAGE = "registry.example/llmcompressor@sha256:1"


class World:
    """The quantized lane on a cluster. The engine's environment is nowhere but in its image."""

    def __init__(self, home: Path, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.proceed = home / "proceed"
        site = {
            "images": {"llmcompressor": IMAGE},
            "checkpoints": {"mount_path": f"{home}/checkpoints"},
            "steps": {"cpu": 1, "memory": "3Gi", "retries": 2, "retry_delay_s": 0.05, "nodegroups": ["h100"]},
        }
        (home / "kubernetes.yaml").write_text(yaml.safe_dump(site))
        write_quantizer(home / "engines", "{env}/bin/python", str(WORKER), accelerator="cuda")
        cluster.programs.claims["modelops-home"] = home
        self.chain = Chain(
            home,
            site_file=str(home / "kubernetes.yaml"),
            kubeconfig=str(cluster.api.kubeconfig(home)),
            pod_name="run-1",
            pod_uid=self.run_pod(),
            pod_poll_s=0.05,
        )

    def run_pod(self) -> str:
        """A pod that stands for the run's own; what it owns goes with it."""
        spec = {"containers": [{"name": "run", "image": "core"}], "priorityClassName": "modelops-production"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "run-1"}, "spec": spec}
        made = self.cluster.api.store.create(("pods", "modelops", "run-1"), pod | {"status": {"phase": "Running"}})
        return str(made["metadata"]["uid"])

    def steps(self) -> list[dict[str, Any]]:
        """The pods of steps that there are."""
        return [p for p in self.cluster.objects("pods") if p["metadata"]["name"] != "run-1"]

    def made(self) -> list[dict[str, Any]]:
        """Every pod of a step that ever was."""
        happened = self.cluster.api.store.happenings
        new = [h.item for h in happened if h.kind == "ADDED" and h.key[0] == "pods"]
        return [p for p in new if p["metadata"]["name"] != "run-1"]

    def runs(self) -> dict[str, Any]:
        """A pod whose worker has begun, and which Dagster has seen."""
        wait_until(lambda: list((self.chain.home / "quantizer").glob("task-*/begun")))
        asked = self.cluster.api.counts["list pods"]
        wait_until(lambda: self.cluster.api.counts["list pods"] > asked + 1)
        return self.steps()[-1]

    def behave(self, how: str) -> None:
        self.cluster.programs.environ["FAKE_QUANTIZER"] = how

    @contextmanager
    def meanwhile(self, act: Callable[[], None]) -> Iterator[None]:
        """Act while the first pod's worker waits, then let workers go on."""
        self.behave(f"until {self.proceed}")
        failures: list[BaseException] = []

        def acting() -> None:
            try:
                act()
            except BaseException as error:  # it fails the test, not the thread
                failures.append(error)
            self.proceed.touch()

        thread = threading.Thread(target=acting)
        thread.start()
        yield
        thread.join()
        assert not failures, failures

    def failure(self, result: dg.ExecuteInProcessResult) -> Any:
        return next(e for e in result.all_events if e.is_step_failure).step_failure_data.user_failure_data

    def said(self, result: dg.ExecuteInProcessResult) -> str:
        return "\n".join(entry.user_message for entry in self.chain.instance.all_logs(result.run_id))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeCluster(Node("a", gpus=1, labels={"modelops.dev/node-group": "h100"})) as cluster:
        yield World(tmp_path, cluster)


def made_checkpoint(world: World) -> Checkpoint:
    found: Checkpoint = read_value(world.chain.lineage, "int8_weights", REPO, None)
    assert found.derivation is not None
    return found


def test_a_step_is_done_in_the_engines_image_and_leaves_its_result_as_files(world: World):
    result = world.chain.run()
    assert result.success, world.said(result)
    assert materialized(result) == ["int8_weights", "int8/endpoint"]
    made = made_checkpoint(world)
    assert made.derivation is not None
    assert made.derivation.made_by == f"llmcompressor {IMAGE}"
    assert (made.derivation.taken_away, made.derivation.lost_gpu_hours) == (0, 0.0)
    assert CheckpointStore(world.chain.home / "checkpoints").verify(made) == []
    assert read_value(world.chain.lineage, "int8/recovery", REPO, None).outcome == "pass"
    assert world.said(result).count("layer 1/2") == 2, "the worker's progress is in the steps' log"
    wait_until(lambda: not world.steps())
    assert list((world.chain.home / "quantizer").iterdir()) == []


def test_the_pod_is_the_runs_own_and_may_write_what_it_makes_and_nothing_else(world: World):
    result = world.chain.run()
    making, comparing = world.made()
    spec, container = making["spec"], making["spec"]["containers"][0]
    assert container["image"] == IMAGE
    (owner,) = making["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Pod", "run-1")
    assert making["metadata"]["labels"]["dagster/run-id"] == result.run_id
    assert (spec["activeDeadlineSeconds"], spec["restartPolicy"]) == (60, "Never")
    assert spec["priorityClassName"] == "modelops-preview"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "3Gi", "nvidia.com/gpu": "1"}
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms[0]["matchExpressions"][0]["values"] == ["h100"]
    for pod, folders in ((making, 2), (comparing, 1)):
        mounts = [m for m in pod["spec"]["containers"][0]["volumeMounts"] if m["name"] == "home"]
        assert mounts[0]["readOnly"] is True, "the store"
        written = [m["subPath"] for m in mounts if not m.get("readOnly")]
        assert len(written) == folders
        assert sorted(path.split("/")[0] for path in written) == ["checkpoints", "quantizer"][-folders:]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("preempted", "taken away by a workload of higher priority"),
        ("drained", "taken away by a drain of its node"),
        ("short", "taken away by its node, which shut down or ran short of memory or disk"),
        ("deleted", "taken away by somebody who deleted it"),
    ],
)
def test_a_pod_that_is_taken_away_is_made_again_and_what_it_cost_is_kept(world: World, how: str, words: str):
    def act() -> None:
        pod, cluster = world.runs()["metadata"]["name"], world.cluster
        if how == "short":
            cluster.evicted.add(pod)
        elif how == "deleted":
            gone = {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
            cluster.api.store.update(("pods", "modelops", pod), gone, "somebody")
        else:
            cluster.evict(pod, {"preempted": "PreemptionByScheduler", "drained": "EvictionByEvictionAPI"}[how])
        wait_until(lambda: len(world.made()) > 1)

    with world.meanwhile(act):
        result = world.chain.run()
    assert result.success, world.said(result)
    assert words in world.said(result)
    made = made_checkpoint(world)
    assert made.derivation is not None
    assert made.derivation.taken_away == 1
    assert made.derivation.lost_gpu_hours >= 0
    assert len(world.made()) == 3, "two to quantize, one to compare"
    assert {p.name for p in Path(made.directory).iterdir()} & {"half"} == set(), "nothing of the first attempt"
    (observed,) = world.chain.instance.fetch_observations(dg.AssetKey("int8_weights"), limit=5).records
    observation = observed.asset_observation
    assert observation is not None
    assert observation.partition == REPO
    assert words in str(observation.metadata["taken_away"].value)
    event = result.asset_materializations_for_node("int8_weights")[0]
    assert event.metadata["taken_away"].value == 1
    wait_until(lambda: not world.steps())


def test_a_pod_that_is_always_taken_away_is_given_up(world: World):
    def act() -> None:
        for count in range(1, 4):
            wait_until(lambda at=count: len(world.made()) == at)
            name = world.made()[-1]["metadata"]["name"]
            wait_until(lambda one=name: any(p["metadata"]["name"] == one and _runs(p) for p in world.steps()))
            world.cluster.evict(name, "PreemptionByScheduler")
            # it may still be running, and end well, when the workers are let go on
            wait_until(lambda one=name: not any(p["metadata"]["name"] == one and _runs(p) for p in world.steps()))

    with world.meanwhile(act):
        result = world.chain.run()
    assert not result.success
    failure = world.failure(result)
    assert failure.metadata["reason"].value == "taken_away"
    assert "for the 3. time, and given up" in failure.description
    assert len(world.made()) == 3
    wait_until(lambda: not world.steps())


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ("crash", "crash", "The engine ended with exit code 3"),
        ("say-failed", "group_size", "None of the group sizes divides it"),
        ("no image", "no_image", "cannot be pulled"),
    ],
)
def test_a_worker_that_fails_by_itself_is_a_failure_and_not_tried_again(
    world: World, how: str, reason: str, words: str
):
    world.behave(how)
    if how == "no image":
        world.cluster.missing_images.add(IMAGE)
    result = world.chain.run()
    failure = world.failure(result)
    assert failure.metadata["reason"].value == reason
    assert words in failure.description
    if how != "no image":
        assert "a line of the log" in failure.metadata["log_tail"].value
    assert len(world.made()) == 1
    wait_until(lambda: not world.steps())
    assert CheckpointStore(world.chain.home / "checkpoints").load(world.chain.source.revision) == world.chain.source


def test_a_pod_waits_for_room_and_says_for_what(world: World):
    node = world.cluster.nodes["a"]
    node.gpus = 0

    def act() -> None:
        wait_until(lambda: any((p["status"].get("conditions") or [{}])[0].get("reason") for p in world.steps()))
        asked = world.cluster.api.counts["list pods"]
        wait_until(lambda: world.cluster.api.counts["list pods"] > asked + 1)
        node.gpus = 1

    with world.meanwhile(act):
        result = world.chain.run()
    assert result.success, world.said(result)
    assert "No node has room: too little nvidia.com/gpu (1 node)" in world.said(result)


def test_a_pod_that_a_quota_refuses_waits_and_says_for_which(world: World):
    world.cluster.limit("gpu-budget", {"requests.nvidia.com/gpu": 0})

    def act() -> None:
        try:
            wait_until(lambda: world.cluster.api.counts["create pods"] > 1, timeout_s=300)
        finally:
            world.cluster.unlimit("gpu-budget")

    with world.meanwhile(act):
        result = world.chain.run()
    assert result.success, world.said(result)
    asks = "it asks for 1 requests.nvidia.com/gpu where 0 of 0 are taken"
    said = f"waits: ResourceQuota gpu-budget admits no further pod ({asks}): raise the quota"
    assert world.said(result).count(said) == 1
    made = made_checkpoint(world)
    assert made.derivation is not None
    assert made.derivation.taken_away == 0


def test_a_pod_that_no_quota_admits_in_time_is_given_up_with_its_name(world: World):
    world.cluster.limit("gpu-budget", {"requests.nvidia.com/gpu": 0})
    site = world.chain.home / "kubernetes.yaml"
    site.write_text(yaml.safe_dump({**yaml.safe_load(site.read_text()), "placing_timeout_s": 1}))
    failure = world.failure(world.chain.run())
    assert "no pod in 1 s. ResourceQuota gpu-budget admits no further pod" in failure.description
    assert world.made() == []


def test_an_api_server_that_is_away_for_a_moment_costs_nothing(world: World):
    def act() -> None:
        world.runs()
        world.cluster.api.failing = 503
        asked = threading.Event()
        asked.wait(0.3)
        world.cluster.api.failing = None

    with world.meanwhile(act):
        result = world.chain.run()
    assert result.success, world.said(result)
    assert len(world.made()) == 2


def test_a_run_that_is_ended_takes_its_pod_with_it(world: World):
    def act() -> None:
        world.runs()
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: not world.steps())

    with world.meanwhile(act):
        assert not world.chain.run().success
    assert len(world.made()) == 1
    assert CheckpointStore(world.chain.home / "checkpoints").load(world.chain.source.revision) == world.chain.source


def test_a_run_whose_pod_is_gone_takes_its_pod_with_it(world: World):
    def act() -> None:
        world.runs()
        world.cluster.api.store.remove(("pods", "modelops", "run-1"))
        wait_until(lambda: not world.steps() or len(world.made()) > 1)

    with world.meanwhile(act):
        world.chain.run()
    wait_until(lambda: not world.steps())


def test_runs_have_the_rights_that_their_steps_use_and_no_other(world: World):
    def act() -> None:
        world.cluster.evict(world.runs()["metadata"]["name"])

    with world.meanwhile(act):
        assert world.chain.run().success
    used = {tuple(asked.split(" ")) for asked, count in world.cluster.api.counts.items() if count}
    documents = [d for d in yaml.safe_load_all(ROLES.read_text()) if d]
    (role,) = [d for d in documents if d["kind"] == "Role" and d["metadata"]["name"] == "modelops-run"]
    granted = {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert granted == used


def test_what_the_site_forgot_is_said_by_name(world: World):
    world.cluster.api.forbidden.add(("create", "pods"))
    failure = world.failure(world.chain.run())
    assert "does not let this program create pods of modelops" in failure.description
    assert "deploy/kubernetes/base" in failure.description


def _runs(pod: dict[str, Any]) -> bool:
    statuses = pod["status"].get("containerStatuses") or []
    return any("running" in s["state"] for s in statuses)
