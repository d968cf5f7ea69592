"""How many accelerators a model needs, from metadata alone, with the arithmetic kept readable.

A GPU must hold its part of the weights and ten per cent more, its part of the KV cache, and what the engine itself
takes; of its memory vLLM uses 92 per cent (`gpu_memory_utilization`). Tensor parallelism stays inside a node, and what
a node cannot hold is cut into pipeline stages across nodes.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gpus import capability_of
from modelops_dagster.domain.model_shape import ModelShape
from modelops_dagster.domain.values import Value

GB = 10**9
WEIGHT_MARGIN = 1.1
GPU_UTILIZATION = 0.92
GPU_OVERHEAD_BYTES = 3 * GB  # CUDA context, activations, graphs
CPU_OVERHEAD_BYTES = 2 * GB  # the engine's program
USUAL_NODE = 8  # GPUs; what a model needs that this machine cannot hold is counted in nodes of so many
# What cuts or copies a model over GPUs when vLLM starts.
PARALLEL_ARGUMENTS = (
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"),
    *("--data-parallel-size", "-dp"),
)
MAX_GPUS = 256  # a model that needs more is not planned for
TENSOR_PARALLEL_SIZES = (1, 2, 4, 8, 16, 32)
# Schemes a released checkpoint can be quantized to, with the bytes per parameter that embeddings included remain.
SCHEME_BYTES = {"FP8_DYNAMIC": 1.05, "W4A16": 0.6}
LARGER_GPU = ("141 GB", 141 * GB)

_GROUP = re.compile(
    r"(?:(?P<nodes>\d+)x)?(?P<per_node>\d+)x(?P<name>[A-Za-z][\w. -]*?)-(?P<size>\d+(?:\.\d+)?)(?P<unit>GB|GiB)"
)


class Hardware(Value):
    """Accelerators of one kind: GPUs, or this machine's own memory as if it were one."""

    kind: Literal["cuda", "cpu"]
    name: str
    memory_bytes: int = Field(description="of one GPU, or all of this machine's memory")
    available_bytes: int | None = Field(default=None, description="of it, what was free when it was looked at")
    per_node: int = Field(default=1, description="GPUs in one node")
    nodes: int = 1
    source: Literal["declared", "seen"] = "seen"
    compute_capability: float | None = Field(default=None, description="e.g. 9.0; None: not known, or no GPU")

    @property
    def label(self) -> str:
        if self.kind == "cpu":
            return f"{self.name}, {size_text(self.memory_bytes)} of memory"
        nodes = f"{self.nodes} nodes of " if self.nodes > 1 else ""
        return f"{nodes}{self.per_node} x {self.name} with {size_text(self.memory_bytes)}"

    @property
    def budget_bytes(self) -> float:
        """What one of them gives a model, in bytes."""
        if self.kind == "cuda":
            return self.memory_bytes * GPU_UTILIZATION
        return self.memory_bytes if self.available_bytes is None else self.available_bytes

    @property
    def overhead_bytes(self) -> int:
        return GPU_OVERHEAD_BYTES if self.kind == "cuda" else CPU_OVERHEAD_BYTES


class Demand(Value):
    """What is to be held."""

    weight_bytes: int
    parameters: int | None = None
    shape: ModelShape | None = Field(default=None, description="None: config.json does not tell the KV cache's size")
    context: int = Field(description="tokens of one sequence")
    sequences: int = Field(description="of that length, at the same time")

    def per_gpu(self, layout: "Layout", hardware: Hardware) -> float:
        """Bytes that one GPU of the layout needs, with every margin."""
        weights = self.weight_bytes / layout.gpus * WEIGHT_MARGIN
        return weights + self.sequences * self.sequence_bytes(layout) + hardware.overhead_bytes

    def least_per_gpu(self, layout: "Layout") -> float:
        """Bytes without which nothing starts: the weights, and one sequence."""
        return self.weight_bytes / layout.gpus + self.sequence_bytes(layout)

    def sequence_bytes(self, layout: "Layout") -> float:
        """The KV cache of one sequence on one GPU."""
        if self.shape is None:
            return 0.0
        return self.shape.kv_bytes(self.context, layout.tensor_parallel) / layout.pipeline_parallel


class Layout(Value):
    """Into how many parts a model is cut."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nodes: int = 1

    @property
    def gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def label(self) -> str:
        where = f" in {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{counted(self.gpus, 'GPU')}{where}: TP={self.tensor_parallel}, PP={self.pipeline_parallel}"


class Placement(Value):
    """On how many accelerators an engine is started, and the arguments that cut the model into as many parts."""

    gpus: int = Field(default=0, ge=0, description="over all its nodes")
    nodes: int = Field(default=1, ge=1)
    arguments: tuple[str, ...] = ()


class Plan(Value):
    """On what a model would be served, and why so."""

    hardware: Hardware
    layout: Layout | None = Field(description="what it needs; None when no number of these GPUs would do")
    fits: Literal["yes", "tight", "no"] = Field(description="on what there is; tight: only without the margins")
    context: int = Field(description="tokens of one sequence that were planned for")
    sequences: int = Field(description="of that length, at the same time; fewer than asked for when tight")
    arithmetic: tuple[str, ...] = Field(default=(), description="how the numbers come about, a line each")
    alternatives: tuple[str, ...] = Field(default=(), description="what else would do, a sentence each")

    @property
    def summary(self) -> str:
        verb = {"yes": "fits", "tight": "fits without margins", "no": "does not fit"}[self.fits]
        where = f"on {self.hardware.label}, {self.sequences} x {self.context:,} tokens"
        if self.hardware.kind == "cpu":
            return f"{verb} {where}"
        need = "no number of these GPUs would do" if self.layout is None else self.layout.label
        return f"{need}; {verb} {where}"


def size_text(size: float) -> str:
    """Bytes with three digits, e.g. `70.6 GB`."""
    for unit, length in (("GB", GB), ("MB", 10**6), ("kB", 10**3)):
        if size >= length:
            return f"{size / length:,.0f} {unit}" if size >= 100 * length else f"{size / length:.3g} {unit}"
    return f"{size:.0f} bytes"


def parse_hardware(text: str) -> tuple[Hardware, ...]:
    """Declared GPUs: `[NODESx]COUNTxNAME-SIZEGB`, comma-separated, e.g. `8xH100-80GB` or `2x8xH100-80GB`.

    Raises:
        InvalidSpec: a part of it is not of that form.
    """
    found = []
    for part in (p.strip() for p in text.split(",") if p.strip()):
        match = _GROUP.fullmatch(part)
        if match is None or int(match["per_node"]) < 1 or int(match["nodes"] or 1) < 1 or float(match["size"]) <= 0:
            raise InvalidSpec(
                f"{part!r} does not declare GPUs: write [NODESx]COUNTxNAME-SIZEGB, e.g. 8xH100-80GB or 2x8xH100-80GB.",
                field="gpus",
            )
        unit = GB if match["unit"] == "GB" else 2**30
        found.append(
            Hardware(
                kind="cuda",
                name=match["name"],
                memory_bytes=int(float(match["size"]) * unit),
                per_node=int(match["per_node"]),
                nodes=int(match["nodes"] or 1),
                source="declared",
                compute_capability=capability_of(match["name"]),
            )
        )
    return tuple(found)


def weakest_capability(inventory: Sequence[Hardware]) -> float | None:
    """The lowest compute capability among the GPUs; None when there are none, or one is not known."""
    found = [h.compute_capability for h in inventory if h.kind == "cuda"]
    known = [c for c in found if c is not None]
    return min(known) if known and len(known) == len(found) else None


def layouts(shape: ModelShape | None, hardware: Hardware, max_gpus: int = MAX_GPUS) -> Iterator[Layout]:
    """Every legal way to cut a model, the preferred one first: tensor parallel in a node, then pipeline stages."""
    if hardware.kind == "cpu":
        yield Layout()
        return
    sizes = [n for n in TENSOR_PARALLEL_SIZES if n <= hardware.per_node and (n == 1 or _may_split(shape, n))]
    for n in sizes:
        yield Layout(tensor_parallel=n)
    widest = sizes[-1]
    stages_per_node = hardware.per_node // widest
    for stages in range(2, (shape.layers if shape is not None else MAX_GPUS) + 1):
        if widest * stages > max_gpus:
            return
        nodes = -(-stages // stages_per_node)
        yield Layout(tensor_parallel=widest, pipeline_parallel=stages, nodes=nodes)


def make_plan(demand: Demand, inventory: Sequence[Hardware]) -> Plan:
    """The best plan on what there is: one that fits before one that fits tightly, in the order of the inventory."""
    plans = [_plan(demand, hardware) for hardware in inventory]
    return min(plans, key=lambda p: ("yes", "tight", "no").index(p.fits))  # min keeps the first of equals


def _plan(demand: Demand, hardware: Hardware) -> Plan:
    needed = next((x for x in layouts(demand.shape, hardware) if _holds(demand, x, hardware)), None)
    if needed is not None and needed.nodes <= hardware.nodes:
        return _made(demand, hardware, needed, "yes", demand.sequences)
    there = [x for x in layouts(demand.shape, hardware) if x.nodes <= hardware.nodes]
    for layout in reversed(there):  # the most parts there are room for
        for sequences in range(demand.sequences - 1, 0, -1):
            if _holds(demand.model_copy(update={"sequences": sequences}), layout, hardware):
                return _made(demand, hardware, layout, "tight", sequences)
        ceiling = hardware.budget_bytes if hardware.kind == "cuda" else hardware.memory_bytes
        if demand.least_per_gpu(layout) <= ceiling:
            return _made(demand, hardware, layout, "tight", 1)
    if needed is None or hardware.per_node < USUAL_NODE:
        usual = hardware.model_copy(update={"per_node": max(hardware.per_node, USUAL_NODE)})
        needed = next((x for x in layouts(demand.shape, usual) if _holds(demand, x, hardware)), needed)
    return _made(demand, hardware, needed, "no", demand.sequences)


def _holds(demand: Demand, layout: Layout, hardware: Hardware) -> bool:
    return demand.per_gpu(layout, hardware) <= hardware.budget_bytes


def _may_split(shape: ModelShape | None, n: int) -> bool:
    return shape is not None and shape.split_problem(n) is None


def _made(
    demand: Demand, hardware: Hardware, layout: Layout | None, fits: Literal["yes", "tight", "no"], sequences: int
) -> Plan:
    return Plan(
        hardware=hardware,
        layout=layout,
        fits=fits,
        context=demand.context,
        sequences=sequences,
        arithmetic=tuple(_arithmetic(demand.model_copy(update={"sequences": sequences}), hardware, layout)),
        alternatives=tuple(_alternatives(demand, hardware, layout, fits)),
    )


def _arithmetic(demand: Demand, hardware: Hardware, layout: Layout | None) -> Iterator[str]:
    each = ""
    if demand.parameters and demand.parameters > 10**6:
        billions = demand.parameters / 1e9
        each = f", {demand.weight_bytes / demand.parameters:.2f} bytes for each of {billions:.3g} billion parameters"
    yield f"weights: {size_text(demand.weight_bytes)}{each}"
    if demand.shape is None:
        yield "KV cache: not counted, because config.json does not state layers and heads"
    else:
        yield from _kv_lines(demand.shape)
        one = demand.shape.kv_bytes(demand.context)
        yield (f"KV cache: {demand.sequences} x {demand.context:,} tokens = {size_text(demand.sequences * one)}")
    shown = layout or Layout()
    kv = demand.sequences * demand.sequence_bytes(shown)
    of = (
        f"{size_text(hardware.budget_bytes)} free"
        if hardware.kind == "cpu"
        else (f"{size_text(hardware.memory_bytes)} x {GPU_UTILIZATION} = {size_text(hardware.budget_bytes)}")
    )
    where = "memory" if hardware.kind == "cpu" else f"each GPU at {shown.label}"
    yield (
        f"{where}: {size_text(demand.weight_bytes)} / {shown.gpus} x {WEIGHT_MARGIN} + KV {size_text(kv)} + "
        f"{size_text(hardware.overhead_bytes)} = {size_text(demand.per_gpu(shown, hardware))} of {of}"
    )


def _kv_lines(shape: ModelShape) -> Iterator[str]:
    for group in shape.groups:
        size = group.bytes_per_token(shape.kv_value_bytes)
        if group.kind == "recurrent":
            yield f"{group.layers} recurrent layers: a constant state for each sequence, not counted"
            continue
        heads = "one latent" if group.kind == "latent" else f"{group.kv_heads} heads"
        window = f", the last {group.window:,} tokens" if group.window else ""
        yield (
            f"KV of {group.layers} {group.kind} layers: {heads} x {group.values_per_head} numbers x "
            f"{shape.kv_value_bytes:g} bytes = {size:,.0f} bytes/token{window}"
        )


def _alternatives(
    demand: Demand, hardware: Hardware, layout: Layout | None, fits: Literal["yes", "tight", "no"]
) -> Iterator[str]:
    most = layout.gpus if layout is not None else MAX_GPUS + 1
    ungridded = demand.shape.model_copy(update={"grid": None}) if demand.shape is not None else None
    is_full_width = demand.parameters is not None and demand.weight_bytes / demand.parameters > 1.5
    for scheme, size in SCHEME_BYTES.items() if is_full_width else ():
        smaller = demand.model_copy(update={"weight_bytes": int((demand.parameters or 0) * size), "shape": ungridded})
        found = next((x for x in layouts(ungridded, hardware) if _holds(smaller, x, hardware)), None)
        if found is not None and (fits != "yes" or found.gpus < most):
            what = "this machine's memory" if hardware.kind == "cpu" else found.label
            yield f"quantized to {scheme} it takes {size_text(smaller.weight_bytes)} and needs {what}"
    if (
        hardware.kind == "cuda"
        and hardware.memory_bytes < LARGER_GPU[1]
        and (fits != "yes" or (layout and layout.nodes > 1))
    ):
        larger = hardware.model_copy(update={"memory_bytes": LARGER_GPU[1]})
        found = next((x for x in layouts(demand.shape, larger) if _holds(demand, x, larger)), None)
        if found is not None and found.gpus < most:
            yield f"GPUs of {LARGER_GPU[0]} would do with {found.label}"
