"""A rehearsal: engines started with made-up weights while the real ones are fetched, so that what cannot load is known
before they are there."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.capacity import GB, Plan, size_text
from modelops_dagster.domain.engines import FailureReason, Rung, RungResult
from modelops_dagster.domain.hub import ModelRevision, Release
from modelops_dagster.domain.values import Value

Wish = Literal["auto", "on", "off"]
# Below it the weights are here about as soon as an engine has started.
MIN_WEIGHT_BYTES = 4 * GB
# What made-up weights prove: the real ones are loaded by the same classes and kernels.
BINDING: frozenset[FailureReason] = frozenset({"unsupported_architecture", "needs_newer_transformers", "custom_kernel"})


class Rehearsal(Value):
    """What the rungs did with made-up weights of one revision. Only reasons that no real weight changes bind."""

    revision: ModelRevision
    results: tuple[RungResult, ...] = Field(default=(), description="of the rungs that were tried, highest first")
    note: str = Field(
        default="", description="why it was not held, or broke off, as a sentence; empty: it went through"
    )
    seconds: float = 0.0

    def ruled_out(self, rungs: Sequence[Rung], versions: Mapping[str, str]) -> dict[Rung, RungResult]:
        """The rungs that need not be started with the real weights.

        Args:
            rungs: the ladder.
            versions: of the engines installed now; what another version did says nothing.
        """
        left = {r.rung: r for r in self.results if r.reason in BINDING}
        return {
            rung: left[rung.label]
            for rung in rungs
            if rung.label in left and left[rung.label].engine_version == versions.get(rung.engine)
        }


def why_none(release: Release, wish: Wish, running: Sequence[str]) -> str | None:
    """Why there is no rehearsal of a release, as a sentence; None when there shall be one.

    Args:
        wish: of the operator. `auto` rehearses on GPUs alone, and large models alone: a processor has better things to
            do than to start engines twice, and small weights are here before an engine is.
        running: names of endpoints that hold memory of the accelerator.
    """
    plan: Plan | None = release.preflight.plan if release.preflight is not None else None
    if wish == "off":
        return "Rehearsals are turned off (MODELOPS_REHEARSAL)."
    if plan is None or plan.fits != "yes":
        where = f"on {plan.hardware.label}" if plan is not None else "here"
        return f"It is not sure that the weights fit {where}, so made-up ones might be refused memory as well."
    is_gpu = plan.hardware.kind == "cuda"
    if wish == "auto" and not is_gpu:
        return "On a CPU it would take time from the fetch; MODELOPS_REHEARSAL=on asks for it all the same."
    if wish == "auto" and release.weight_bytes < MIN_WEIGHT_BYTES:
        return f"The weights ({size_text(release.weight_bytes)}) are here before an engine has started."
    if is_gpu and running:
        return f"The GPUs are in use by {', '.join(running[:3])}."
    return None
