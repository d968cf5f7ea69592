"""What this machine can serve models on: its GPUs as the driver's tool lists them, else its memory."""

import csv
import re
import subprocess
from pathlib import Path

import psutil

from modelops_dagster.domain.capacity import Hardware, parse_hardware
from modelops_dagster.domain.gpus import capability_of

# Drivers of before 2022 do not know the last field, and refuse the whole question because of it.
FIELDS = ("name,memory.total,compute_cap", "name,memory.total")
QUERY_TIMEOUT_S = 30.0
# Where a container's memory limit stands: cgroup v2, cgroup v1.
LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def inventory(accelerator: str, declared: str) -> tuple[Hardware, ...]:
    """What to plan for, the preferred kind first.

    Args:
        accelerator: cpu, cuda, or auto: GPUs where there are or are declared to be any.
        declared: GPUs that are to be planned for whether this machine has them or not, as `parse_hardware` reads them.

    Raises:
        InvalidSpec: `declared` does not hold.
    """
    gpus = parse_hardware(declared)
    if accelerator == "cpu":
        return (memory(),)
    return gpus or seen_gpus() or (memory(),)


def accelerator_slots(accelerator: str, declared: str) -> tuple[str, ...]:
    """Names of the accelerators that engines and jobs are given, as CUDA_VISIBLE_DEVICES takes them: `0`, `1`, ...

    Declared ones count whether this machine has them or not, those of one node; else what the driver lists.
    """
    kinds = parse_hardware(declared) or (() if accelerator == "cpu" else seen_gpus())
    return tuple(str(index) for index in range(sum(kind.per_node for kind in kinds if kind.kind == "cuda")))


def seen_gpus() -> tuple[Hardware, ...]:
    """The GPUs that `nvidia-smi` lists, by kind; none where there is no driver, or it does not answer."""
    for fields in FIELDS:
        argv = ("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ()
        if done.returncode == 0:
            return read_gpus(done.stdout)
    return ()


def read_gpus(listed: str) -> tuple[Hardware, ...]:
    """GPUs out of `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`, MiB; most memory first.

    The last of `FIELDS` may be missing; the capability is then known by the name, or not at all.

    A line without a size (`[N/A]`, as boards that share the host's memory have it) is left out.
    """
    counts: dict[tuple[str, int, float | None], int] = {}
    for row in csv.reader(listed.splitlines(), skipinitialspace=True):
        if len(row) in (2, 3) and row[1].strip().isdigit():
            name, told = row[0].strip(), row[2].strip() if len(row) == 3 else ""
            capability = float(told) if re.fullmatch(r"\d+\.\d+", told) else capability_of(name)
            kind = (name, int(row[1]) * 2**20, capability)
            counts[kind] = counts.get(kind, 0) + 1
    kinds = sorted(counts.items(), key=lambda item: -item[1] * item[0][1])
    return tuple(
        Hardware(kind="cuda", name=name, memory_bytes=size, per_node=count, compute_capability=capability)
        for (name, size, capability), count in kinds
    )


def memory() -> Hardware:
    """This machine's memory, or what a container may use of it."""
    stat = psutil.virtual_memory()
    limits = [int(text) for f in LIMIT_FILES if f.is_file() and (text := f.read_text().strip()).isdigit()]
    total = min([stat.total, *limits])
    return Hardware(kind="cpu", name="CPU", memory_bytes=total, available_bytes=min(total, stat.available))
