"""The reconcile loop: what is wanted of every endpoint, made true by a driver for each of its replicas."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modelops_dagster.clients.endpoints import Demand, EndpointBackend, LiveStore, RecordStore
from modelops_dagster.clients.research import JobProcesses
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.lifecycle import RestartPolicy
from modelops_dagster.services.controller.accelerators import Accelerators
from modelops_dagster.services.controller.driver import Driver
from modelops_dagster.services.controller.idleness import Idleness
from modelops_dagster.services.controller.job_desk import JobDesk
from modelops_dagster.services.controller.research import ResearchDesk
from modelops_dagster.services.controller.scaling import Autoscaler
from modelops_dagster.services.controller.wishes import Ledger, Refusal, Wishes
from modelops_dagster.services.controller.workshop import Diagnose, Workshop

SCALE_DOWN_S = 300.0  # as the Kubernetes Horizontal Pod Autoscaler waits

log = logging.getLogger("modelops.controller")
T = TypeVar("T")


class Controller:
    """Owns every endpoint of one home. `wishes` takes what is asked for; `open` begins to make it true.

    Args:
        store: what is shared with the gateway (see `clients.endpoints.live`) lies beside its folder.
        diagnose: names the reason of a failure from the engine's last lines, with a sentence about it.
        slots: names of this machine's accelerators.
        calls: folder of the gateway's call log, for replicas that follow traffic; None: they do not, here.
        alert: tells people that a research job was preempted.
        desk: makes the desk of research jobs, given `alert` and `run`; None: they are processes of this machine.
        refusal: why a cluster cannot do what a spec asks for; None: endpoints are on this machine.
        tick_s: seconds between two looks at a replica that nothing happens to.
        ask_every_s: seconds between two questions to an engine that is Running.
        scale_down_s: seconds that traffic has to be low before a replica goes.
    """

    def __init__(
        self,
        store: RecordStore,
        backend: EndpointBackend,
        diagnose: Diagnose,
        policy: RestartPolicy | None = None,
        *,
        slots: Sequence[str] = (),
        alert: Callable[[Alert], None] = lambda _: None,
        desk: Callable[..., JobDesk] | None = None,
        refusal: Refusal | None = None,
        calls: Path | None = None,
        tick_s: float = 1.0,
        ask_every_s: float = 5.0,
        scale_down_s: float = SCALE_DOWN_S,
    ) -> None:
        self.ledger = Ledger(store, LiveStore(store.folder.parent))
        self.wishes = Wishes(self.ledger, self._wake, refusal)
        self.backend = backend
        self._pool = ThreadPoolExecutor(max_workers=32, thread_name_prefix="endpoint")
        idleness = Idleness(Demand(store.folder.parent))
        self.accelerators = Accelerators(slots, self.ledger, idleness, self._wake)
        self._shop = Workshop(
            ledger=self.ledger,
            backend=backend,
            idleness=idleness,
            accelerators=self.accelerators,
            diagnose=diagnose,
            policy=policy or RestartPolicy(),
            run=self._run,
            wake=self._wake,
            tick_s=tick_s,
            ask_every_s=ask_every_s,
        )
        self._autoscaler: Autoscaler | None = None
        if calls is not None:
            demand = Demand(store.folder.parent)
            self._autoscaler = Autoscaler(
                self.ledger, demand, calls, run=self._run, wake=self._wake, sample_s=tick_s, hold_s=scale_down_s
            )
        self._scaling: asyncio.Task[None] | None = None
        if desk is None:
            jobs = JobProcesses(store.folder.parent / "research")
            desk = partial(ResearchDesk, jobs, self.accelerators)
        self.research = desk(alert, run=self._run, tick_s=tick_s)
        self._drivers: dict[tuple[str, int], Driver] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def look_soon(self, name: str) -> None:
        """Something happened to the endpoint. May be called from any thread, and before `open`."""
        if self._loop is not None and not self._closing:
            self._loop.call_soon_threadsafe(self._wake, name)

    async def open(self) -> None:
        """Take over what an earlier controller left, then begin to watch."""
        self._loop = asyncio.get_running_loop()
        self.ledger.publisher.put_off_with(self._loop.call_later)
        for complaint in self.ledger.load():
            log.warning(complaint)
        known = []
        for record in self.ledger.all():
            for index, replica in enumerate(record.replicas):
                if replica.replica is not None:
                    adopted = await self._run(self.backend.adopt, replica.replica)
                    current = self.ledger.get(record.name)
                    self.ledger.note(current.with_replica(index, replica=adopted, resting=False))
                    pid = adopted.identity.pid if adopted.identity else None
                    log.info("%s: was %s with pid %s", record.name, replica.state, pid)
                    known.append(adopted)
        for sentence in await self._run(self.backend.end_strangers, known):
            log.warning(sentence)
        await self.research.open()
        for record in self.ledger.all():
            self._wake(record.name)
        if self._autoscaler is not None:
            self._scaling = asyncio.create_task(self._autoscaler.follow(), name="autoscaler")

    async def close(self, *, keep_engines: bool) -> None:
        """Stop watching; unless `keep_engines`, end every engine and job. What is wanted stays as it is."""
        self._closing = True
        if self._scaling is not None:
            self._scaling.cancel()
        for driver in self._drivers.values():
            driver.closing = True
            driver.wake()
        await asyncio.gather(self.research.close(keep=keep_engines), *self._tasks.values(), return_exceptions=True)
        if not keep_engines:
            await asyncio.gather(*(driver.end_at_close() for driver in self._drivers.values()))
        self.ledger.publisher.flush()
        self._pool.shutdown(wait=True)

    def _wake(self, name: str) -> None:
        """Make the drivers of the endpoint look now; every replica has one."""
        record = self.ledger.find(name)
        for index in range(len(record.replicas) if record is not None else 0):
            key = (name, index)
            if key not in self._tasks or self._tasks[key].done():
                self._drivers[key] = Driver(self._shop, name, index)
                self._tasks[key] = asyncio.create_task(self._drive(key), name=f"endpoint {name}[{index}]")
            self._drivers[key].wake()

    async def _drive(self, key: tuple[str, int]) -> None:
        await self._drivers[key].drive()
        if not self._closing:
            self._drivers.pop(key, None)
            self._tasks.pop(key, None)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(function, *args))
