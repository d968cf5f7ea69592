"""What is applied to a cluster, as golden files: a change of a manifest is a change of text that somebody reads.

After a change on purpose: `MODELOPS_UPDATE_GOLDEN=1 pytest tests/domain/kubernetes`, then read the diff.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.endpoints import EndpointSpec, Priority
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec
from modelops_dagster.domain.kubernetes import (
    ResearchJob,
    Site,
    http_route,
    kserve_service,
    platform_objects,
    render,
    research_job,
    service_url,
)
from modelops_dagster.domain.kubernetes.research import requested_job
from modelops_dagster.domain.kubernetes.site import GatewayApiSite, KedaSite, KueueSite, QueueSite, StepSite
from modelops_dagster.domain.kubernetes.steps import RunPod, StepTask, step_pod
from modelops_dagster.domain.kubernetes.text import as_yaml
from modelops_dagster.domain.kubernetes.unseen import unseen_spec
from modelops_dagster.domain.research import JobRequest
from tests.fakes.cluster.schemas import problems

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "examples"
TASK = "/var/lib/modelops/quantizer/task-1"
GOLDEN = ROOT / "tests" / "golden" / "kubernetes"
COMMIT = "a09a35458c702b33eeacc393d103063234e8bc28"
SITE = Site(
    keda=KedaSite(
        prometheus_url="http://prometheus.monitoring.svc:9090",
        demand_query='sum(increase(gateway_requests_total{endpoint="{endpoint}"}[5m])) or vector(0)',
    ),
    queue=QueueSite(url="redis://redis.queues.svc:6379", image="ghcr.io/modelops-dagster/core:1.0.0"),
)
RABBITMQ = SITE.model_copy(
    update={"queue": QueueSite(url="amqps://rabbitmq.queues.svc/models", secret="rabbit", image="core:1")}
)
ENGINES = {
    path.parent.name: EngineManifest.model_validate(yaml.safe_load(path.read_text()))
    for path in (ROOT / "engines").glob("*/engine.yaml")
}


def example(which: str, /, **changes: Any) -> EndpointSpec:
    document = yaml.safe_load((EXAMPLES / f"endpoint_{which}.yaml").read_text()) | changes
    if document.get("model") and "@" not in document["model"]:
        document["model"] += f"@{COMMIT}"
    return unseen_spec(EndpointDocument.model_validate(document), SITE)


def rendered(which: str, /, site: Site = SITE, **changes: Any) -> list[dict[str, Any]]:
    return render(example(which, **changes), site, ENGINES)


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(item for item in objects if item["kind"] == kind)


def container(objects: list[dict[str, Any]], kind: str = "Deployment") -> dict[str, Any]:
    found: dict[str, Any] = of_kind(objects, kind)["spec"]["template"]["spec"]["containers"][0]
    return found


def the_goldens() -> dict[str, list[dict[str, Any]]]:
    job = yaml.safe_load((EXAMPLES / "research_job.yaml").read_text())
    del job["kind"]
    queued = SITE.model_copy(update={"kueue": KueueSite()})
    return {
        "cpu": rendered("cpu"),
        "gpu": rendered("gpu"),
        "tensor_parallel": rendered("tensor_parallel"),
        "two_nodes": rendered("two_nodes", queued),
        "scale_to_zero": rendered("scale_to_zero"),
        "async": rendered("async"),
        "imported_container": rendered("imported_container"),
        "research_job": [research_job(ResearchJob.model_validate(job), queued)],
        "platform": platform_objects(queued),
    }


def of_the_controller_and_runs() -> dict[str, list[dict[str, Any]]]:
    """What is made of no spec: a step of a run, and a research job as the controller makes it."""
    queued = SITE.model_copy(update={"kueue": KueueSite(), "steps": StepSite(gpus=2, nodegroups=("h100-a",))})
    made = f"{SITE.checkpoints.mount_path}/acme/one/{COMMIT}-fp8-dynamic-1.partial"
    task = StepTask("0f", TASK, f"{TASK}/request.json", made, 21600)
    pod = step_pod(task, queued, ENGINES["llmcompressor"], RunPod("dagster-run-0f-x", "1f-2e"))
    request = JobRequest(command=("python", "/app/train.py"), owner="ada", gpus=1, image="ghcr.io/acme/trainer:2.3.0")
    step = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": {"name": "step", **pod["metadata"]}}
    return {"quantize_step": [step], "research_run": [requested_job("job-20260101-abcdef", request, SITE)]}


GOLDENS = the_goldens() | of_the_controller_and_runs()


@pytest.mark.parametrize("name", GOLDENS)
def test_manifests_are_those_of_the_golden_files_and_strictly_valid(name: str):
    assert [said for item in GOLDENS[name] for said in problems(item)] == []
    text = as_yaml(GOLDENS[name])
    assert list(yaml.safe_load_all(text)) == GOLDENS[name], "a comment never changes what is applied"
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("MODELOPS_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "the manifest changed: read the diff, then update the golden file"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "progressDeadlineSecond"), 5, "no such field"),
        (("spec", "progressDeadlineSeconds"), "5", "not of type int"),
        (("spec", "selector"), {"matchLabels": {"a": "b"}}, "does not match"),
        (("spec", "template", "spec", "containers", 0, "imagee"), "x", "no such field"),
        (("spec", "template", "spec", "containers", 0, "name"), None, "not of type str"),
        (("spec", "template", "spec", "volumes"), [], "has no volume"),
        (("spec", "replicas"), -1, "spec.replicas: Invalid value: -1"),
        (("spec", "selector"), {}, "empty selector is invalid"),
        (("spec", "strategy", "rollingUpdate", "maxUnavailable"), 0, "may not be 0 when `maxSurge` is 0"),
        (("spec", "template", "spec", "containers"), [], "containers: Required value"),
        (("spec", "template", "spec", "containers", 0, "name"), "Not_A_Name", "Invalid value: 'Not_A_Name'"),
        (("spec", "template", "spec", "containers", 0, "startupProbe"), {}, "startupProbe: Invalid value"),
        (("spec", "template", "spec", "containers", 0, "env"), [{"name": "A"}, {"name": "A"}], "duplicate entries"),
        (("spec", "template", "spec", "terminationGracePeriodSeconds"), 1, "longer than the pod's grace period"),
        (("spec", "template", "spec", "tolerations", 0, "effect"), "Never", "Invalid value: 'Never'"),
        (("spec", "template", "metadata", "labels", "x"), "a b", "Invalid value"),
    ],
)
def test_validation_finds_what_an_api_server_would_refuse(path: tuple[Any, ...], value: Any, said: str):
    deployment = of_kind(rendered("gpu"), "Deployment")
    inside: Any = deployment
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    assert said in " ".join(problems(deployment))


def test_replicas_belong_to_the_autoscaler_or_to_us_never_to_both():
    fixed = rendered("gpu")
    assert of_kind(fixed, "Deployment")["spec"]["replicas"] == 1
    assert "ScaledObject" not in {item["kind"] for item in fixed}
    scaled = rendered("tensor_parallel")
    assert "replicas" not in of_kind(scaled, "Deployment")["spec"]
    assert of_kind(scaled, "ScaledObject")["spec"]["scaleTargetRef"]["name"] == "llama-70b-r1"
    without_keda = rendered("tensor_parallel", SITE.model_copy(update={"keda": None}))
    assert of_kind(without_keda, "Deployment")["spec"]["replicas"] == 1


def test_every_metric_of_a_spec_is_a_trigger():
    metrics = ["cpu", "ram", "gpu", "gram", "latency", "throughput", "concurrency"]
    targets = [{"metric": m, "target": 50} for m in metrics]
    objects = rendered("tensor_parallel", autoscale_config={"targets": targets})
    scaled = of_kind(objects, "ScaledObject")
    assert problems(scaled) == []
    triggers = scaled["spec"]["triggers"]
    assert [t.get("name", t["type"]) for t in triggers] == ["cpu", "memory", *metrics[2:]]
    by_name = {t.get("name"): t for t in triggers}
    assert by_name["latency"]["metadata"]["threshold"] == "0.05", "specs say milliseconds, vLLM seconds"
    assert by_name["latency"]["metricType"] == "Value", "a latency is not divided by the replicas"
    assert by_name["concurrency"]["metricType"] == "AverageValue"
    assert 'modelops_dev_endpoint="llama-70b"' in by_name["gram"]["metadata"]["query"]


def test_metric_that_cannot_be_read_is_refused_by_name():
    blind = Site()
    with pytest.raises(InvalidSpec, match="needs Prometheus") as caught:
        rendered("tensor_parallel", blind)
    assert caught.value.field == "autoscale_config.targets.0"
    targets = {"targets": [{"metric": "latency", "target": 500}]}
    with pytest.raises(InvalidSpec, match="latency is read from vLLM's metrics"):
        rendered("imported_container", autoscale_config=targets)


def test_without_a_demand_query_keda_never_goes_to_zero():
    """Nothing outside the pods would wake it: then the controller puts it to sleep and wakes it."""
    keda = KedaSite(prometheus_url="http://prometheus:9090")
    spec = of_kind(rendered("scale_to_zero", SITE.model_copy(update={"keda": keda})), "ScaledObject")["spec"]
    assert spec["minReplicaCount"] == 1
    assert "idleReplicaCount" not in spec
    assert "demand" not in [t["name"] for t in spec["triggers"]]


def test_asynchronous_endpoint_is_an_engine_and_a_consumer_that_both_scale_by_the_queue():
    objects = GOLDENS["async"]
    engine, consumer = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert (engine["name"], consumer["name"], consumer["image"]) == ("engine", "consumer", SITE.queue.image)
    given = dict(zip(consumer["args"][::2], consumer["args"][1::2], strict=True))
    assert given["--endpoint"] == "nightly-summaries"
    assert (given["--at-once"], given["--drain-s"]) == ("3", "45"), "the spec's runtime_overrides"
    assert given["--model"] == engine["args"][engine["args"].index("--served-model-name") + 1]
    env = {item["name"]: item for item in consumer["env"]}
    assert env["MODELOPS_QUEUE_URL"]["value"] == "redis://redis.queues.svc:6379"
    assert env["MODELOPS_QUEUE_PASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": "modelops-queue", "key": "password"}
    assert "MODELOPS_QUEUE" not in str(engine), "the engine runs what others made, and knows no queue"

    scaled, named = of_kind(objects, "ScaledObject"), of_kind(objects, "TriggerAuthentication")
    assert (scaled["spec"]["idleReplicaCount"], scaled["spec"]["cooldownPeriod"]) == (0, 900)
    demand, queue = scaled["spec"]["triggers"]
    assert demand["type"] == "prometheus", "a call through the gateway wakes it too"
    assert queue["metadata"]["stream"] == "modelops:nightly-summaries:requests"
    assert queue["metadata"]["streamLength"] == "20"
    assert queue["authenticationRef"]["name"] == named["metadata"]["name"]
    assert {ref["name"] for ref in named["spec"]["secretTargetRef"]} == {"modelops-queue"}


def test_queue_may_be_a_rabbitmq():
    objects = rendered("async", RABBITMQ)
    assert [said for item in objects for said in problems(item)] == []
    queue = of_kind(objects, "ScaledObject")["spec"]["triggers"][-1]
    assert (queue["type"], queue["metadata"]["host"]) == ("rabbitmq", "amqps://rabbitmq.queues.svc/models")
    assert queue["metadata"]["queueName"] == "modelops:nightly-summaries:requests"
    assert "# requests for each replica; what a lost replica held waits again" in as_yaml(objects)


def test_queue_wakes_an_endpoint_that_scales_by_something_else():
    config = {"targets": [{"metric": "gpu", "target": 80}], "cooldown_period": 900}
    spec = of_kind(rendered("async", autoscale_config=config), "ScaledObject")["spec"]
    assert [t["name"] for t in spec["triggers"]] == ["demand", "queue", "gpu"]
    assert spec["triggers"][1]["metadata"]["streamLength"] == "1000000000", "it asks for no second replica"
    blind = SITE.model_copy(update={"keda": KedaSite()})
    spec = of_kind(rendered("async", blind), "ScaledObject")["spec"]
    assert [t["name"] for t in spec["triggers"]] == ["queue"], "neither Prometheus nor the gateway is needed"
    assert spec["idleReplicaCount"] == 0


def test_only_the_leader_of_several_nodes_takes_requests():
    objects = rendered("two_nodes", async_deployment_type="ASYNC")
    group = of_kind(objects, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    names = {
        which: [c["name"] for c in group[which]["spec"]["containers"]] for which in ("leaderTemplate", "workerTemplate")
    }
    assert names == {"leaderTemplate": ["engine", "consumer"], "workerTemplate": ["engine"]}
    assert [said for item in objects for said in problems(item)] == []


def test_asynchronous_endpoint_needs_a_queue_and_somebody_who_looks_at_it():
    with pytest.raises(InvalidSpec, match="this site names no Redis or RabbitMQ") as caught:
        rendered("async", SITE.model_copy(update={"queue": None}))
    assert caught.value.field == "async_deployment_type"
    with pytest.raises(InvalidSpec, match="only KEDA would see the request that wakes it"):
        rendered("async", SITE.model_copy(update={"keda": None}))
    fixed = rendered(
        "async", SITE.model_copy(update={"keda": None}), scale_to_zero=False, min_replicas=2, autoscale_config=None
    )
    assert of_kind(fixed, "Deployment")["spec"]["replicas"] == 2
    assert "TriggerAuthentication" not in {item["kind"] for item in fixed}


def test_engine_of_a_multi_node_replica_is_told_its_rank_by_the_group():
    group = of_kind(GOLDENS["two_nodes"], "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    leader = group["leaderTemplate"]["spec"]["containers"][0]
    worker = group["workerTemplate"]["spec"]["containers"][0]
    assert group["size"] == 2
    for args, rank in ((leader["args"], "0"), (worker["args"], "$(LWS_WORKER_INDEX)")):
        assert args[args.index("--node-rank") + 1] == rank
        assert args[args.index("--nnodes") + 1] == "$(LWS_GROUP_SIZE)"
        assert args.count("--tensor-parallel-size") == 1
    assert "--headless" in worker["args"]
    assert "--headless" not in leader["args"]
    assert "readinessProbe" not in worker
    assert leader["resources"]["limits"]["nvidia.com/gpu"] == "8", "of one node, not of the replica"
    assert of_kind(GOLDENS["two_nodes"], "Service")["spec"]["selector"]["modelops.dev/role"] == "leader"
    cut = example("two_nodes", engine_args=[])
    args = of_kind(render(cut, SITE, ENGINES), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["leaderTemplate"]
    assert [
        a
        for a in args["spec"]["containers"][0]["args"]
        if a in ("--tensor-parallel-size", "--pipeline-parallel-size", "8", "2")
    ] == ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"]
    with pytest.raises(InvalidSpec, match="is what vLLM does"):
        rendered("two_nodes", engine="transformers", engine_args=[])


def test_secrets_are_references_and_the_rest_is_in_clear():
    env = {item["name"]: item for item in container(GOLDENS["imported_container"])["env"]}
    assert env["LOG_LEVEL"]["value"] == "info"
    assert env["LICENSE_KEY"]["valueFrom"]["secretKeyRef"] == {
        "name": "my-imported-container-env",
        "key": "LICENSE_KEY",
    }


def test_nothing_runs_as_root_or_writes_to_its_image():
    for name in ("cpu", "gpu", "tensor_parallel", "scale_to_zero", "async", "imported_container", "research_job"):
        workload = GOLDENS[name][0] if name == "research_job" else of_kind(GOLDENS[name], "Deployment")
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for each in pod["containers"]:
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_probes_give_an_engine_the_time_its_spec_says():
    probe = container(rendered("gpu", start_timeout_s=3600))["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 3600
    assert probe["httpGet"]["path"] == "/health"
    spec = example("gpu")
    odd = ENGINES[spec.engine].model_copy(update={"health_path": "/health_generate"})
    asked = container(render(spec, SITE, {**ENGINES, spec.engine: odd}))
    paths = {asked[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/health_generate"}
    own = container(GOLDENS["imported_container"])
    assert own["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8200}
    assert own["startupProbe"]["initialDelaySeconds"] == 30
    assert "livenessProbe" not in own, "its owner said when it is ready, not when it is dead"


@pytest.mark.parametrize(
    ("example_name", "changes", "error", "said"),
    [
        ("gpu", {"engine": "nobody"}, EngineMissing, "There is no engine 'nobody'"),
        ("gpu", {"variant": "odd"}, InvalidSpec, "has no variant 'odd'"),
        ("gpu", {"checkpoint": "/elsewhere/model"}, InvalidSpec, "is not under /var/lib/modelops/checkpoints"),
        ("gpu", {"checkpoint": "/var/lib/modelops/checkpoints/../secrets"}, InvalidSpec, "is not under"),
        ("bring_your_own", {}, InvalidSpec, "is served elsewhere"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    example_name: str, changes: dict[str, Any], error: type[Exception], said: str
):
    with pytest.raises(error, match=said):
        rendered(example_name, **changes)


def test_names_fit_kubernetes_and_never_meet():
    names = ["Llama-3.1-8B", "llama-3.1-8b", "llama-3-1-8b", "a" * 64, "a" * 63]
    made = [render(example("gpu", name=name), SITE, ENGINES) for name in names]
    assert [said for objects in made for item in objects for said in problems(item)] == []
    services = [of_kind(objects, "Service")["metadata"]["name"] for objects in made]
    assert len(set(services)) == len(names)
    assert max(len(name) for name in services) <= 40, "pods add up to 17 characters, a group's up to 10"
    assert service_url("llama-3-1-8b", 7, SITE) == "http://llama-3-1-8b-r7.modelops.svc:8000/v1"


def test_site_decides_images_node_labels_and_where_specs_have_the_store():
    site = SITE.model_copy(
        update={"images": {"vllm": "registry.local/vllm@sha256:" + "0" * 64}, "checkpoint_root": "/home/me/checkpoints"}
    )
    each = container(rendered("gpu", site, checkpoint="/home/me/checkpoints/org/name/abc"))
    assert each["image"] == "registry.local/vllm@sha256:" + "0" * 64
    assert each["args"][1] == "/var/lib/modelops/checkpoints/org/name/abc"
    terms = of_kind(GOLDENS["imported_container"], "Deployment")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert "l4-spot" in str(terms)


def test_route_shares_traffic_out_between_revisions():
    site = SITE.model_copy(
        update={"gateway": GatewayApiSite(name="models", namespace="gateway", hostname_suffix="models.internal")}
    )
    route = http_route("llama-70b", {7: 95, 8: 5}, site, 120)
    assert problems(route) == []
    assert route["spec"]["rules"][0]["backendRefs"][1] == {"name": "llama-70b-r8", "port": 8000, "weight": 5}
    with pytest.raises(InvalidSpec, match="not all 0"):
        http_route("llama-70b", {7: 0}, site)
    with pytest.raises(InvalidSpec, match="has no Gateway"):
        http_route("llama-70b", {7: 1}, SITE)


def test_kserve_says_the_same_in_one_object():
    service = kserve_service(example("tensor_parallel"), SITE, ENGINES)
    assert problems(service) == []
    assert service["spec"]["parallelism"] == {"tensor": 8}
    assert service["spec"]["scaling"]["maxReplicas"] == 3
    assert service["spec"]["model"]["uri"].startswith("pvc://modelops-home/checkpoints/meta-llama/")
    fixed = kserve_service(example("gpu"), SITE, ENGINES)
    assert problems(fixed) == []
    assert fixed["spec"]["replicas"] == 1
    with pytest.raises(InvalidSpec, match="starts vLLM itself"):
        kserve_service(example("cpu"), SITE, ENGINES)
    with pytest.raises(InvalidSpec, match="KServe knows no consumer"):
        kserve_service(example("async"), SITE, ENGINES)


def test_research_yields_and_endpoints_do_not():
    classes = {item["metadata"]["name"]: item for item in platform_objects(Site())}
    assert {p.value: classes[f"modelops-{p.value}"]["preemptionPolicy"] for p in Priority} == {
        "production": "PreemptLowerPriority",
        "preview": "PreemptLowerPriority",
        "research": "Never",
    }
    order = [classes[f"modelops-{p}"]["value"] for p in ("research", "preview", "production")]
    assert order == sorted(order)
    job = GOLDENS["research_job"][0]["spec"]
    assert job["podFailurePolicy"]["rules"][0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget"}],
    }
