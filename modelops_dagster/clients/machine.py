"""What this machine has: memory, disk, and what its GPU can multiply."""

import shutil
from pathlib import Path
from typing import Literal

import psutil

from modelops_dagster.clients.engines import has_gpu
from modelops_dagster.clients.hardware import inventory
from modelops_dagster.domain.capacity import weakest_capability
from modelops_dagster.domain.plan import Machine

CGROUP = Path("/sys/fs/cgroup")


def look_at_machine(
    checkpoints: Path,
    accelerator: str,
    gpus: str = "",
    *,
    quantizer: Literal["cpu", "cuda"],
    quantizer_missing: str | None,
) -> Machine:
    """Measure now.

    Args:
        checkpoints: where the disk is measured; the nearest folder above it that exists.
        accelerator: cpu, cuda, or auto to look for a GPU.
        gpus: those that are declared, as `parse_hardware` reads them; empty: what the driver lists.
        quantizer: what the quantizer computes on.
        quantizer_missing: why nothing can be quantized here; None when it can.
    """
    there = next(p for p in (checkpoints, *checkpoints.parents) if p.exists())
    gpu = accelerator == "cuda" or (accelerator == "auto" and has_gpu())
    return Machine(
        accelerator="cuda" if gpu else "cpu",
        compute_capability=weakest_capability(inventory(accelerator, gpus)) if gpu else None,
        memory_bytes=memory_bytes(),
        free_disk_bytes=shutil.disk_usage(there).free,
        quantizer=quantizer if gpu else "cpu",
        quantizer_missing=quantizer_missing,
    )


def memory_bytes() -> int:
    """Memory that this program's container may use, in bytes; the machine's, where there is no limit."""
    total = psutil.virtual_memory().total
    limit = CGROUP / "memory.max"
    stated = limit.read_text().strip() if limit.is_file() else "max"
    return total if stated == "max" else min(total, int(stated))


def out_of_memory_kills() -> int:
    """How many programs of this container the kernel has killed for memory so far; 0 where that is not told."""
    events = CGROUP / "memory.events"
    if not events.is_file():
        return 0
    counts = dict(line.split() for line in events.read_text().splitlines())
    return int(counts.get("oom_kill", 0))
