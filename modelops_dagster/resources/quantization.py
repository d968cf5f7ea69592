"""The quantizer as a resource: recipes in, a watched worker out, as a Dagster Pipes session."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.machine import look_at_machine, memory_bytes
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.plan import Machine
from modelops_dagster.domain.recovery import RecoveryPolicy

MEMORY_SHARE = 0.9  # of what there is, where the operator set no limit: the platform's own programs need the rest


class QuantizerResource(dg.ConfigurableResource[Quantizer]):
    """How checkpoints are quantized and compared on this machine."""

    engines: str
    cache: str
    recipes_root: str
    lane_recipes: list[str]
    policy_name: str
    work: str
    checkpoints: str
    accelerator: str
    lanes: list[str]
    memory_limit_gb: float | None
    timeout_s: float
    own_engines: str = ""
    gpus: str = ""

    def recipes(self) -> RecipeFolder:
        return RecipeFolder(Path(self.recipes_root), self.lane_recipes)

    def policy(self) -> RecoveryPolicy:
        return self.recipes().policy(self.policy_name)

    def quantizer(self) -> Quantizer:
        limit = int(self.memory_limit_gb * 2**30) if self.memory_limit_gb else int(memory_bytes() * MEMORY_SHARE)
        return Quantizer(
            EngineRegistry(Path(self.engines), Path(self.cache), Path(self.own_engines) if self.own_engines else None),
            self.recipes(),
            Path(self.work),
            memory_limit_bytes=limit,
            timeout_s=self.timeout_s,
        )

    def machine(self) -> Machine:
        quantizer = self.quantizer()
        return look_at_machine(
            Path(self.checkpoints),
            self.accelerator,
            self.gpus,
            quantizer=quantizer.accelerator(),
            quantizer_missing=quantizer.missing(),
        )

    def wanted(self, tag: str | None) -> Sequence[str] | None:
        """The lanes that a run's tag, or else the settings, ask for by name; None when neither does."""
        if tag:
            return [name.strip() for name in tag.split(",") if name.strip()]
        return self.lanes or None

    @contextmanager
    def pipes(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Iterator[dict[str, str]]:
        """A Pipes session of this step: variables for the worker, whose progress then arrives in the step's log.

        The result does not come this way. It is a file that is read back, because messages can be lost.
        """
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            yield dict(session.get_bootstrap_env_vars())
