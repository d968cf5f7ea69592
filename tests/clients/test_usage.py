"""What engines take of the machine, seen on real processes."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints import Replica
from modelops_dagster.clients.endpoints.usage import MachineUse
from modelops_dagster.domain.endpoints import EndpointSpec

SPEC = EndpointSpec(
    name="small",
    checkpoint="/nowhere",
    checkpoint_digest="sha256:0",
    engine="fake",
    served_model_name="small",
    cpu_request=2,
    memory_request=1,
)
# a parent that only waits and a child that keeps a processor busy and 200 MiB of memory, as an engine's worker does
BUSY = """
import os, time
if os.fork():
    time.sleep(60)
kept = bytearray(os.urandom(1 << 20) * 200)
while True: pass
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Replica]:
    log = tmp_path / "log"
    identity = processes.spawn([sys.executable, "-c", BUSY], dict(os.environ), log, tmp_path)
    yield Replica.model_construct(identity=identity, log_path=str(log))
    processes.stop_group(identity, 1, log)


def test_processor_time_and_memory_of_all_processes_of_an_engine(engine: Replica):
    use = MachineUse()
    assert use.read(SPEC, [engine]).cpu is None
    deadline = time.monotonic() + 30
    while (found := use.read(SPEC, [engine])).ram < 15 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert 15 < found.ram < 60, "200 MiB and two interpreters, of 1 GiB"
    time.sleep(1)
    first = use.read(SPEC, [engine]).cpu
    assert first is not None
    assert 1 < first < 60, "of two processors it keeps at most one"
    use.forget(SPEC.name)
    assert use.read(SPEC, [engine]).cpu is None


def test_replicas_that_are_gone_take_nothing(engine: Replica):
    use = MachineUse()
    use.read(SPEC, [engine])
    processes.stop_group(engine.identity, 1, Path(engine.log_path))
    found = use.read(SPEC, [engine])
    assert (found.cpu, found.ram) == (0, 0)
