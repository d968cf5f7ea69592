"""What the engines of an endpoint take of this machine, as percentages of what a replica was promised."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints.backend import Replica
from modelops_dagster.domain.endpoints import EndpointSpec

GIB = 1 << 30


class MachineShare(NamedTuple):
    """Percent, the mean over the replicas; None: not known yet."""

    cpu: float | None
    ram: float


class _Reading(NamedTuple):
    at_s: float
    cpu_s: Mapping[tuple[int, float], float]  # by pid and start time


class MachineUse:
    """Remembers the last reading of every endpoint: a share of the processors is the difference of two."""

    def __init__(self) -> None:
        self._last: dict[str, _Reading] = {}

    def read(self, spec: EndpointSpec, replicas: Sequence[Replica]) -> MachineShare:
        """Processor time since the reading before, None when there was none, and memory now.

        Percentages of `cpu_request` and `memory_request`; without them, of the processors and memory of this machine.
        """
        cpu_s: dict[tuple[int, float], float] = {}
        resident = 0
        for replica in replicas:
            for pid in processes.session_members(replica.identity, Path(replica.log_path)):
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended between the list and this
                    process = psutil.Process(pid)
                    with process.oneshot():
                        times = process.cpu_times()
                        cpu_s[(pid, process.create_time())] = times.user + times.system
                        resident += process.memory_info().rss
        now, before = time.monotonic(), self._last.get(spec.name)
        self._last[spec.name] = _Reading(now, cpu_s)
        count = max(1, len(replicas))
        memory = spec.memory_request * GIB if spec.memory_request else psutil.virtual_memory().total
        cpu = None
        if before is not None and now > before.at_s:
            used = sum(seconds - before.cpu_s.get(key, 0.0) for key, seconds in cpu_s.items())
            promised = spec.cpu_request or psutil.cpu_count() or 1
            cpu = 100 * used / (now - before.at_s) / count / promised
        return MachineShare(cpu, 100 * resident / count / memory)

    def forget(self, name: str) -> None:
        """The endpoint's next reading is a first one."""
        self._last.pop(name, None)
