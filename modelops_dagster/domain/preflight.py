"""Preflight: what is known of a release before any weight is fetched, and what follows from it."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.architectures import Support
from modelops_dagster.domain.capacity import Placement, Plan
from modelops_dagster.domain.engines import EngineManifest, RungResult
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.ladder import Accelerator
from modelops_dagster.domain.values import Value

Severity = Literal["blocks", "warns", "informs"]
# What the operator may accept for one run; anything else that blocks protects him or cannot work.
ACCEPTABLE = frozenset({"too_large", "no_engine", "disk_full", "license_not_allowed", "quantization_shape"})


def require_acceptable(codes: Sequence[str]) -> None:
    """Refuse codes that the operator may not accept.

    Raises:
        InvalidSpec: one of them is not a finding that may be.
    """
    for code in codes:
        if code not in ACCEPTABLE:
            raise InvalidSpec(
                f"{code!r} is no finding that can be accepted: choose of {', '.join(sorted(ACCEPTABLE))}.",
                field="accept",
            )


class Finding(Value):
    """One thing the metadata shows."""

    severity: Severity
    code: str = Field(description="stable and machine-readable")
    sentence: str = Field(description="what is the matter, and what to do next")


class Preflight(Value):
    """What the metadata of a release says about serving it here."""

    supports: tuple[Support, ...] = Field(default=(), description="one for each rung of the ladder, highest first")
    plan: Plan | None = Field(default=None, description="None when there are no weights to plan for")
    findings: tuple[Finding, ...] = ()

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "blocks")

    @property
    def first_rung(self) -> str | None:
        """The highest rung that may hold the model; None when there is none."""
        return next((s.rung for s in self.supports if s.reason is None and s.is_installed), None)

    @property
    def ladder(self) -> tuple[RungResult, ...]:
        """What every rung would be left for; only of a release that no rung can hold is that the whole ladder."""
        return tuple(s.result for s in self.supports)

    @property
    def summary(self) -> str:
        """The plan in one line."""
        begin = f"begins at {self.first_rung}" if self.first_rung else "no rung can hold it"
        return f"{begin}; {self.plan.summary}" if self.plan is not None else begin

    def placements(self, manifests: Mapping[str, EngineManifest], accelerator: Accelerator) -> dict[str, Placement]:
        """By engine, on how many GPUs the plan puts it; empty where it has none.

        vLLM is told how to cut the model. Other engines spread it by themselves over the GPUs of one node, and are not
        placed where the plan takes several.
        """
        if accelerator == "cpu" or self.plan is None or self.plan.hardware.kind != "cuda" or self.plan.layout is None:
            return {}
        layout = self.plan.layout
        arguments = (
            *(("--tensor-parallel-size", str(layout.tensor_parallel)) if layout.tensor_parallel > 1 else ()),
            *(("--pipeline-parallel-size", str(layout.pipeline_parallel)) if layout.pipeline_parallel > 1 else ()),
        )
        return {
            name: Placement(
                gpus=layout.gpus,
                nodes=layout.nodes,
                arguments=arguments if manifest.command[0].endswith("/vllm") else (),
            )
            for name, manifest in manifests.items()
            if manifest.serves
            and "cuda" in manifest.accelerators
            and (layout.nodes == 1 or manifest.command[0].endswith("/vllm"))
        }

    def accepting(self, codes: Sequence[str]) -> "Preflight":
        """The same, where findings of these codes warn instead of blocking.

        Raises:
            InvalidSpec: as `require_acceptable`.
        """
        require_acceptable(codes)
        return self.model_copy(
            update={
                "findings": tuple(
                    f.model_copy(update={"severity": "warns"}) if f.severity == "blocks" and f.code in codes else f
                    for f in self.findings
                )
            }
        )
