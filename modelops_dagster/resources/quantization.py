"""The quantizer as a resource: recipes in, a watched worker out, as a Dagster Pipes session."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from modelops_dagster.clients.kubernetes.site_file import read_site
from modelops_dagster.clients.machine import look_at_machine, memory_bytes
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.kubernetes import Site
from modelops_dagster.domain.kubernetes.steps import RunPod
from modelops_dagster.domain.plan import Machine
from modelops_dagster.domain.recovery import RecoveryPolicy
from modelops_dagster.resources.engines import InstalledEngines

MEMORY_SHARE = 0.9  # of what there is, where the operator set no limit: the platform's own programs need the rest


class QuantizerResource(InstalledEngines):
    """How checkpoints are quantized and compared: by processes of this machine, or by pods where `site_file` is given.

    `pod_name` and `pod_uid` are the run's own, where it is in a pod.
    """

    recipes_root: str
    lane_recipes: list[str]
    policy_name: str
    work: str
    checkpoints: str
    lanes: list[str]
    memory_limit_gb: float | None
    timeout_s: float
    gpus: str = ""
    site_file: str = ""
    kubeconfig: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    pod_poll_s: float = 5.0

    def recipes(self) -> RecipeFolder:
        return RecipeFolder(Path(self.recipes_root), self.lane_recipes)

    def policy(self) -> RecoveryPolicy:
        return self.recipes().policy(self.policy_name)

    def quantizer(self, context: dg.OpExecutionContext | None = None) -> Quantizer:
        """What does the tasks of a step; without one, what is asked about the quantizer.

        Raises:
            InvalidSpec, UserError: the site file does not hold, or there is no usable configuration of a cluster.
        """
        limit = int(self.memory_limit_gb * 2**30) if self.memory_limit_gb else int(memory_bytes() * MEMORY_SHARE)
        registry, recipes, work = self.registry(), self.recipes(), Path(self.work)
        quantizer = Quantizer(registry, recipes, work, memory_limit_bytes=limit, timeout_s=self.timeout_s)
        if context is None or not self.site_file:
            return quantizer
        # imported here: the client of the API server takes a second that one machine need not wait
        from modelops_dagster.resources.step_pods import Cluster, StepPods

        owner = RunPod(self.pod_name, self.pod_uid) if self.pod_uid else None
        cluster = Cluster(self._site(), self.kubeconfig, owner, self.pod_poll_s)
        pods = StepPods(context, cluster, registry.manifest(quantizer.engine), work, self.timeout_s)
        return Quantizer(registry, recipes, work, elsewhere=pods)

    def _site(self) -> Site:
        site = read_site(Path(self.site_file))
        return site.model_copy(update={"checkpoint_root": site.checkpoint_root or self.checkpoints})

    def machine(self) -> Machine:
        """What quantizing can count on: this machine's, or the memory of a pod."""
        quantizer = self.quantizer()
        machine = look_at_machine(
            Path(self.checkpoints),
            self.accelerator,
            self.gpus,
            quantizer=quantizer.accelerator(),
            quantizer_missing=None if self.site_file else quantizer.missing(),
        )
        if not self.site_file:
            return machine
        return machine.model_copy(update={"memory_bytes": int(self._site().steps.memory * 2**30)})

    def wanted(self, tag: str | None) -> Sequence[str] | None:
        """The lanes that a run's tag, or else the settings, ask for by name; None when neither does."""
        if tag:
            return [name.strip() for name in tag.split(",") if name.strip()]
        return self.lanes or None

    @contextmanager
    def pipes(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[dict[str, str]]:
        """A Pipes session of this step: variables for the worker, whose progress then arrives in the step's log.

        The result does not come this way. It is a file that is read back, because messages can be lost. A pod has a
        session of its own.
        """
        if self.site_file:
            yield {}
            return
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            yield dict(session.get_bootstrap_env_vars())
