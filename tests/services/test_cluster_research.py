"""Research jobs on a cluster: run, preempted for an endpoint, resumed; told by the command line as on one machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.research import RESEARCH_LABEL
from modelops_dagster.domain.research import JobRequest, JobState, ResearchJob
from tests.fakes.cluster.kubelet import FakeCluster, Node
from tests.fakes.cluster.stack import ClusterStack
from tests.fakes.stack import wait_until
from tests.fakes.training import TRAINING, WAITS

WAIT_S = 60.0
IMAGE = "ghcr.io/acme/trainer:1"


class World:
    """A cluster of one node with two GPUs, and the real controller."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        self.cluster = cluster
        site = {"kueue": {"research_queue": "research"}}
        self.stack = ClusterStack(folder, cluster.api.kubeconfig(folder), **site)
        cluster.programs.claims["modelops-home"] = self.stack.home
        self.stack.up()

    def submit(self, code: str, **fields: object) -> str:
        values = {"command": ("python", "-S", "-c", code), "owner": "ada", "image": IMAGE, "gpus": 2, "grace_s": 5}
        return self.stack.client.submit_job(JobRequest.model_validate({**values, **fields})).job_id

    def until(self, job_id: str, good: Callable[[ResearchJob], object]) -> ResearchJob:
        return wait_until(lambda: self.stack.client.get_job(job_id), good, WAIT_S)

    def over(self, job_id: str) -> ResearchJob:
        return self.until(job_id, lambda job: job.state in ("Succeeded", "Failed", "Cancelled"))

    def says(self, job_id: str, word: str) -> None:
        wait_until(lambda: self.stack.client.job_logs(job_id), lambda text: word in text, WAIT_S)

    def job(self, job_id: str) -> dict:
        return next(item for item in self.cluster.objects("jobs") if item["metadata"]["name"] == job_id)

    def pods(self, job_id: str) -> list[dict]:
        return [
            p for p in self.cluster.objects("pods") if p["metadata"].get("labels", {}).get(RESEARCH_LABEL) == job_id
        ]

    def folder(self, job_id: str) -> Path:
        return self.stack.home / "research" / job_id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with FakeCluster(Node("a", gpus=2)) as cluster:
        world = World(tmp_path_factory.mktemp("research"), cluster)
        yield world
        world.stack.down()


def test_a_job_runs_with_the_class_and_queue_of_research_in_a_folder_that_outlives_it(world: World):
    job_id = world.submit("open('result', 'w').write('42'); print('hello')", memory="2Gi", max_hours=2)
    job = world.over(job_id)
    assert (job.state, job.exit_code, job.message) == (JobState.SUCCEEDED, 0, "Done.")
    assert [a.outcome for a in job.attempts] == ["ended"]
    assert (job.attempts[0].devices, job.lost_gpu_hours) == (("a/0", "a/1"), 0)
    assert world.stack.client.job_logs(job_id).strip() == "hello"
    assert (world.folder(job_id) / "result").read_text() == "42"
    live = world.job(job_id)
    assert live["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert live["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "modelops-research"
    assert live["spec"]["activeDeadlineSeconds"] == 7200
    pod = live["spec"]["template"]["spec"]
    assert pod["priorityClassName"] == "modelops-research"
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "2Gi", "nvidia.com/gpu": "2"}


def test_an_endpoint_takes_the_gpus_and_the_job_goes_on_when_it_gives_them_back(world: World):
    client = world.stack.client
    job_id = world.submit(TRAINING)
    world.says(job_id, f" in {job_id}")
    client.apply(world.stack.spec(name="rival", gpus=1, priority="production"))
    client.wait_ready("rival", WAIT_S)
    job = world.until(job_id, lambda job: job.state is JobState.QUEUED and job.preemptions and "No node" in job.message)
    assert job.message.startswith("Preempted by a workload of higher priority; it resumes when there is room.")
    (attempt,) = job.attempts
    assert (attempt.outcome, attempt.by) == ("preempted", "a workload of higher priority")
    assert attempt.checkpoint_at is not None
    assert job.lost_gpu_hours <= job.gpu_hours
    listed = world.stack.modelops("research", "list").stdout
    (line,) = [line for line in listed.splitlines() if job_id in line]
    assert "Queued" in line
    shown = world.stack.modelops("research", "show", job_id).stdout
    assert "a workload of higher priority" in shown
    assert "of which" in shown
    told = "".join(path.read_text() for path in (world.stack.home / "alerts").glob("outbox-*.jsonl"))
    assert f"ada's {job_id}" in told, "its owner is alerted"
    client.delete("rival")
    client.wait_deleted("rival", WAIT_S)
    job = world.over(job_id)
    assert (job.state, job.preemptions, [a.outcome for a in job.attempts]) == (
        JobState.SUCCEEDED,
        1,
        ["preempted", "ended"],
    )
    text = client.job_logs(job_id)
    assert "saved" in text
    assert "resumed" in text


def test_kueue_takes_a_job_back_as_a_whole(world: World):
    job_id = world.submit(WAITS)
    world.until(job_id, lambda job: job.state is JobState.RUNNING)
    key = ("jobs", "modelops", job_id)
    world.cluster.api.store.update(key, {"spec": {"suspend": True}}, "kueue")
    job = world.until(job_id, lambda job: job.preemptions and job.state is JobState.QUEUED)
    assert job.attempts[0].by == "Kueue, which needs the room for others"
    assert job.lost_gpu_hours == job.gpu_hours, "it saved nothing"
    assert "It waits until Kueue admits it." in job.message
    world.cluster.api.store.update(key, {"spec": {"suspend": False}}, "kueue")
    world.until(job_id, lambda job: job.state is JobState.RUNNING)
    (world.folder(job_id) / "go").touch()
    job = world.over(job_id)
    assert (job.state, job.exit_code) == (JobState.FAILED, 5)
    assert f"exit code 5; `modelops research logs {job_id}`" in job.message


def test_a_job_that_takes_too_long_ends(world: World):
    job = world.over(world.submit(WAITS, max_hours=1 / 3600))
    assert job.state is JobState.FAILED
    assert "It ran for longer than its" in job.message
    assert job.preemptions == 0


def test_what_waits_and_what_runs_can_be_cancelled(world: World):
    first = world.submit(TRAINING)
    world.says(first, "training")
    second = world.submit(TRAINING)
    world.until(second, lambda job: "No node has room: too little nvidia.com/gpu" in job.message)
    world.stack.client.cancel_job(second)
    assert world.over(second).message == "Cancelled before it ran."
    world.stack.client.cancel_job(first)
    job = world.over(first)
    assert (job.message, job.preemptions) == ("Cancelled while it ran.", 0)
    assert not world.pods(first)
    assert world.folder(first).is_dir(), "what it saved is its owner's"
    third = world.submit(TRAINING)
    world.says(third, "training")
    world.cluster.api.store.update(("jobs", "modelops", third), {"metadata": {"deletionTimestamp": "now"}}, "kubectl")
    assert world.over(third).message == "Somebody deleted its Job on the cluster."


def test_an_image_that_is_not_there_is_named(world: World):
    world.cluster.missing_images.add("ghcr.io/acme/none:1")
    job_id = world.submit(TRAINING, image="ghcr.io/acme/none:1")
    world.until(job_id, lambda job: "ghcr.io/acme/none:1 cannot be pulled" in job.message)
    world.stack.client.cancel_job(job_id)
    world.over(job_id)


def test_a_job_held_back_by_a_quota_names_it_and_begins_when_there_is_more(world: World):
    world.cluster.limit("gpu-budget", {"requests.nvidia.com/gpu": 1})
    job_id = world.submit("print('hello')")
    job = world.until(job_id, lambda job: "gpu-budget" in job.message)
    assert (job.state, job.attempts) == (JobState.QUEUED, ())
    asks = "it asks for 2 requests.nvidia.com/gpu where 0 of 1 are taken"
    assert job.message.startswith(f"ResourceQuota gpu-budget admits no further pod ({asks}): raise the quota")
    assert "gpu-budget" in world.stack.modelops("research", "show", job_id).stdout
    world.cluster.unlimit("gpu-budget")
    assert world.over(job_id).state is JobState.SUCCEEDED


def test_a_controller_that_may_not_read_events_leaves_a_job_to_the_cluster(world: World):
    world.cluster.api.forbidden.add(("list", "events"))
    world.cluster.limit("gpu-budget", {"requests.nvidia.com/gpu": 1})
    job_id = world.submit("print('hello')")
    wait_until(lambda: "why jobs have no pods is not known" in world.stack.log.read_text(), timeout_s=WAIT_S)
    job = world.until(job_id, lambda job: job.message == "The cluster has made no pod yet.")
    assert job.state is JobState.QUEUED
    world.cluster.unlimit("gpu-budget")
    assert world.over(job_id).state is JobState.SUCCEEDED
    world.cluster.api.forbidden.clear()


def test_a_job_without_an_image_is_refused_at_once(world: World):
    with pytest.raises(InvalidSpec, match="name its image, with --image"):
        world.submit("", image=None, directory="/srv")


def test_a_controller_that_was_killed_finds_its_jobs_even_without_records(world: World):
    job_id = world.submit(WAITS)
    world.until(job_id, lambda job: job.state is JobState.RUNNING)
    world.stack.kill()
    world.stack.up()
    assert world.until(job_id, lambda job: job.state is JobState.RUNNING).request.owner == "ada"
    world.stack.kill()
    (world.stack.home / "controller" / "research" / f"{job_id}.json").unlink()
    world.stack.up()
    job = world.until(job_id, lambda job: job.state is JobState.RUNNING)
    assert (job.request.owner, len(job.attempts)) == ("ada", 1)
    (world.folder(job_id) / "go").touch()
    assert world.over(job_id).exit_code == 5


def test_an_api_server_that_is_away_says_nothing_about_a_job(world: World):
    job_id = world.submit(WAITS)
    world.until(job_id, lambda job: job.state is JobState.RUNNING)
    world.cluster.api.failing = 503
    world.cluster.api.drop_watches()
    during = world.submit(TRAINING, gpus=0)
    (world.folder(job_id) / "go").touch()
    wait_until(lambda: "503" in world.stack.log.read_text(), timeout_s=WAIT_S)
    assert world.stack.client.get_job(job_id).state is JobState.RUNNING
    world.cluster.api.failing = None
    assert world.over(job_id).exit_code == 5
    world.says(during, "training")
    world.stack.client.cancel_job(during)
    world.over(during)
