"""What a cluster is like: everything a manifest needs to know that no endpoint says."""

import re

from pydantic import Field, field_validator, model_validator

from modelops_dagster.domain.endpoint_spec.quantities import Cpu, Memory
from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.queues import QueueAddress
from modelops_dagster.domain.values import Value

NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
IMAGE_REPOSITORY = "ghcr.io/modelops-dagster"


class Toleration(Value):
    """A taint of the nodes with accelerators that endpoints may be placed in spite of."""

    key: str
    operator: str = Field(default="Exists", pattern="^(Exists|Equal)$")
    value: str | None = None
    effect: str = Field(default="NoSchedule", pattern="^(NoSchedule|PreferNoSchedule|NoExecute)$")


class CheckpointVolume(Value):
    """The shared volume with the checkpoint store; every engine mounts it read-only."""

    claim: str = "modelops-home"
    sub_path: str = Field(default="checkpoints", description="folder of the volume that is mounted")
    mount_path: str = Field(default="/var/lib/modelops/checkpoints", description="where engines and controller see it")


class KedaSite(Value):
    """Where KEDA reads what replicas follow."""

    prometheus_url: str | None = Field(default=None, description="None: only cpu and ram can be followed")
    demand_query: str | None = Field(
        default=None,
        description="PromQL that counts recent calls of an endpoint outside its pods, with {endpoint} for its name; "
        "None: the controller lets endpoints sleep and wakes them, and KEDA never goes to zero",
    )
    polling_interval_s: int = Field(default=15, ge=1)
    step_seconds: int = Field(default=120, ge=1, description="at most one replica more or less in so long")

    @field_validator("demand_query")
    @classmethod
    def _names_endpoint(cls, value: str | None) -> str | None:
        if value is not None and "{endpoint}" not in value:
            raise ValueError("a demand query names the endpoint with {endpoint}")
        return value


class GatewayApiSite(Value):
    """The Gateway (gateway.networking.k8s.io) that HTTPRoutes are attached to."""

    name: str
    namespace: str
    hostname_suffix: str = Field(description="routes answer at <endpoint>.<suffix>")


class KueueSite(Value):
    """Queues of Kueue; admission and preemption are then Kueue's."""

    serving_queue: str = "serving"
    research_queue: str = "research"


class QueueSite(QueueAddress):
    """The Redis or RabbitMQ that the requests of ASYNC endpoints wait in."""

    secret: str = Field(
        default="modelops-queue", description="a Secret of the namespace with the keys username and password"
    )
    image: str = Field(description="of the consumer beside an engine: the platform's own, core")

    @property
    def address(self) -> QueueAddress:
        return QueueAddress(url=self.url)


class StepSite(Value):
    """Pods that a step of a run is done in, where it needs the environment of an engine: quantizing and comparing."""

    gpus: int | None = Field(
        default=None, ge=0, le=64, description="of one pod; None: one where the engine computes on GPUs, else none"
    )
    cpu: Cpu = Field(default=8, description="vCPU of one pod, requested and allowed")
    memory: Memory = Field(default=64, description="Gi of one pod; decides which checkpoints can be quantized")
    nodegroups: tuple[str, ...] = ()
    sub_path: str = Field(default="quantizer", description="folder of the checkpoints' claim for requests and results")
    retries: int = Field(default=10, ge=0, le=1000, description="of a pod that the cluster took away")
    retry_delay_s: float = Field(
        default=30, ge=0, allow_inf_nan=False, description="before the first of them; doubles up to ten minutes"
    )


class ResearchSite(Value):
    """Where research jobs keep what they save, so that it outlives their pods."""

    sub_path: str = Field(default="research", description="folder of the checkpoints' claim, with one for each job")
    mount_path: str = Field(default="/research", description="where a job sees its own folder, and begins")


class Site(Value):
    """A cluster. Every field has a default that fits `deploy/kubernetes`."""

    namespace: str = "modelops"
    images: dict[str, str] = Field(default_factory=dict, description="image of an engine, by the engine's name")
    image_repository: str = Field(
        default=IMAGE_REPOSITORY,
        description="where <engine>:<version> is found for engines without an image here; "
        "<version>-cuda on an engine that runs with and without GPUs, for an endpoint with some or a cluster of cuda",
    )
    image_pull_secrets: tuple[str, ...] = Field(default=(), description="names of Secrets in the namespace")
    checkpoints: CheckpointVolume = CheckpointVolume()
    checkpoint_root: str | None = Field(
        default=None, description="where specs have the store, when that is not where it is mounted"
    )
    storage_class: str | None = Field(default=None, description="of new volumes; None: the cluster's default")
    node_group_label: str = "modelops.dev/node-group"
    gpu_resource: str = "nvidia.com/gpu"
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)
    shared_memory_gib: int = Field(default=16, ge=1, description="of a pod whose GPUs talk to each other")
    scratch_gib: int = Field(default=20, ge=1, description="writable space of a pod: caches and temporary files")
    placing_timeout_s: int = Field(
        default=1800, ge=1, description="how long a pod may wait for a node, a volume and its image"
    )
    user_id: int = Field(default=1000, ge=1, description="engines run as this user, which is not root")
    imported_read_only_root: bool = Field(default=True, description="imported containers may write under /tmp alone")
    priority_classes: dict[Priority, str] = Field(
        default_factory=lambda: {p: f"modelops-{p.value}" for p in Priority}, description="PriorityClass by priority"
    )
    keda: KedaSite | None = Field(default=KedaSite(), description="None: replicas are a fixed number")
    gateway: GatewayApiSite | None = Field(default=None, description="None: no HTTPRoute")
    pod_addresses: bool = Field(
        default=True,
        description="calls go to the pods of an endpoint with several; false: to its Service, as a mesh may want it",
    )
    kueue: KueueSite | None = None
    queue: QueueSite | None = Field(default=None, description="None: no ASYNC endpoints")
    steps: StepSite = StepSite()
    research: ResearchSite = ResearchSite()

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        if not NAMESPACE.fullmatch(value):
            raise ValueError(f"{value!r} is not a namespace: use lower-case letters, digits and '-'")
        return value

    @model_validator(mode="after")
    def _classes(self) -> "Site":
        missing = [p.value for p in Priority if p not in self.priority_classes]
        if missing:
            raise ValueError(f"priority_classes lacks {', '.join(missing)}")
        return self

    def image(self, engine: str, version: str) -> str:
        """The image an engine runs in."""
        return self.images.get(engine) or f"{self.image_repository}/{engine}:{version}"

    def checkpoint_path(self, checkpoint: str) -> str:
        """Where a pod sees a checkpoint of the store.

        Raises:
            InvalidSpec: it is not in the store, so no pod can see it.
        """
        mount = self.checkpoints.mount_path.rstrip("/")
        for root in (mount, (self.checkpoint_root or mount).rstrip("/")):
            rest = checkpoint.removeprefix(f"{root}/")
            if rest != checkpoint and ".." not in rest.split("/"):
                return f"{mount}/{rest}"
        raise InvalidSpec(
            f"Checkpoint {checkpoint} is not under {self.checkpoint_root or mount}, the shared store that pods mount; "
            "onboard the model there.",
            field="checkpoint",
        )
