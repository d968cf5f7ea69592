"""The plan of a release: which lanes it is sent down on this machine, and why each is or is not taken."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.gpus import MULTIPLIED_FROM
from modelops_dagster.domain.hub import ModelRevision, Release
from modelops_dagster.domain.lanes import QUANTIZED_LANES, RAW
from modelops_dagster.domain.quantization import Method, Recipe, gib, released_quantized
from modelops_dagster.domain.schemes import Scheme
from modelops_dagster.domain.values import Value

LANES_TAG = "modelops/lanes"  # on a run: the lanes that are wanted, comma-separated
FP8_CAPABILITY = MULTIPLIED_FROM["fp8"]
MIN_AWQ_PARAMETERS = 3_000_000_000  # below it four bits lose more than they are worth
# Bytes of the quantized weights per byte of BF16 ones, with embeddings left as they are.
SIZE_RATIO: Mapping[Scheme, float] = {"FP8_DYNAMIC": 0.65, "FP8_BLOCK": 0.65, "W8A8": 0.65, "W4A16": 0.45}
# Memory while quantizing, per byte of the checkpoint: the weights, and what a layer's search keeps beside them.
MEMORY_RATIO: Mapping[Method, float] = {"rtn": 1.6, "gptq": 2.0, "awq": 2.2}
MEMORY_BASE_BYTES = 2 * 2**30  # torch, Transformers and the activations of one batch


class Machine(Value):
    """What quantizing and serving can count on."""

    accelerator: Literal["cpu", "cuda"]
    compute_capability: float | None = Field(default=None, description="of the weakest GPU; None: no GPU, or not known")
    memory_bytes: int = Field(description="that programs of this platform may use together")
    free_disk_bytes: int = Field(description="where checkpoints are kept")
    quantizer: Literal["cpu", "cuda"] = Field(default="cpu", description="what the quantizer computes on")
    quantizer_missing: str | None = Field(default=None, description="why nothing can be quantized here, as a sentence")


class LanePlan(Value):
    """One lane of one release."""

    lane: str
    selected: bool
    reason: str = Field(description="why it is, or is not, taken; half a sentence")


class ReleasePlan(Value):
    """All lanes of one release, in their order."""

    revision: ModelRevision
    lanes: tuple[LanePlan, ...]

    def selected(self, lane: str) -> bool:
        return any(p.selected for p in self.lanes if p.lane == lane)


def plan_lanes(
    release: Release, machine: Machine, recipes: Mapping[str, Recipe], wanted: Sequence[str] | None = None
) -> tuple[LanePlan, ...]:
    """Decide about every lane.

    Args:
        release: what is to be sent down.
        machine: where.
        recipes: recipe of each quantized lane by its name.
        wanted: lanes that somebody asked for by name; None leaves the choice to the hardware.

    The raw lane is always taken. Asking for a lane by name overrules the choice by hardware, never what cannot be done.
    """
    plans = [LanePlan(lane=RAW.name, selected=True, reason="as released, on the first day")]
    for lane in QUANTIZED_LANES:
        recipe = recipes[lane.name]
        objection = _impossible(release, machine, recipe)
        if wanted is not None and lane.name not in wanted:
            objection = f"not asked for: the lanes wanted are {', '.join(wanted) or 'none'}"
        if objection is not None:
            plans.append(LanePlan(lane=lane.name, selected=False, reason=objection))
        elif wanted is not None:
            plans.append(LanePlan(lane=lane.name, selected=True, reason="asked for by name"))
        else:
            selected, reason = _by_hardware(lane.name, release, machine)
            plans.append(LanePlan(lane=lane.name, selected=selected, reason=reason))
    return tuple(plans)


def _impossible(release: Release, machine: Machine, recipe: Recipe) -> str | None:
    """What stands in the way, whoever asks for it; None when nothing does."""
    if (by := released_quantized(release)) is not None:
        return f"released quantized ({by}) already, and quantizing it again would lose more"
    if release.remote_code and not release.runs_without_code:
        return "it needs code of its own repository, which the quantizer never runs"
    if machine.quantizer_missing is not None:
        return machine.quantizer_missing
    needed = int(release.weight_bytes * SIZE_RATIO[recipe.scheme])
    if needed > machine.free_disk_bytes:
        return f"needs {gib(needed)} of disk and {gib(machine.free_disk_bytes)} are free"
    memory = memory_needed(release.weight_bytes, recipe)
    if memory > machine.memory_bytes:
        return f"quantizing it needs about {gib(memory)} of memory and there are {gib(machine.memory_bytes)}"
    return None


def memory_needed(weight_bytes: int, recipe: Recipe) -> int:
    """About how much memory, in bytes, quantizing takes."""
    return MEMORY_BASE_BYTES + int(weight_bytes * MEMORY_RATIO[recipe.method])


def _by_hardware(lane: str, release: Release, machine: Machine) -> tuple[bool, str]:
    """Whether this machine wants the lane by itself, and why."""
    gpu, capability = machine.accelerator == "cuda", machine.compute_capability
    has_fp8 = gpu and (capability is None or capability >= FP8_CAPABILITY)
    if lane == "fp8":
        if has_fp8:
            return True, "the GPU multiplies FP8"
        weak = (
            f"the GPU (compute capability {capability}) does not multiply FP8" if gpu else "a CPU serves FP8 too slowly"
        )
        return False, weak
    if lane == "int8":
        if has_fp8:
            return False, "the GPU multiplies FP8, which keeps more at the same size"
        return True, "the GPU multiplies eight-bit integers" if gpu else "a CPU serves eight-bit integers fastest"
    parameters = release.parameters or release.weight_bytes // 2
    if not gpu:
        return False, "it takes long to make on a CPU, and int8 serves as fast there; ask for it by name"
    if machine.quantizer == "cpu":
        return False, "the quantizer computes on the CPU, where it takes long; ask for it by name"
    if parameters < MIN_AWQ_PARAMETERS:
        return False, f"{parameters / 1e9:.1f} billion parameters are few for four bits; ask for it by name"
    return True, "four-bit weights leave the GPU room for context"
