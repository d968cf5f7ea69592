"""Replicas by load: looks at what the gateway counts and engines take, and changes how many there should be."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from modelops_dagster.clients.endpoint_calls import endpoint_calls
from modelops_dagster.clients.endpoints import Demand, EndpointRecord
from modelops_dagster.clients.endpoints.usage import MachineUse
from modelops_dagster.domain.autoscale import Load, Recommendations, replicas_for
from modelops_dagster.domain.endpoint_spec.this_machine import FOLLOWED
from modelops_dagster.domain.endpoints import AutoscaleConfig, EndpointState
from modelops_dagster.services.controller.monitor import running_replicas
from modelops_dagster.services.controller.wishes import Ledger

log = logging.getLogger("modelops.controller")
_SAMPLES = 10  # of concurrency, one decision
_LOGGED = timedelta(seconds=60)  # calls that ended in this time make throughput and latency


class Autoscaler:
    """One task for all endpoints. What it decides is one number in an endpoint's record."""

    def __init__(
        self,
        ledger: Ledger,
        demand: Demand,
        calls: Path,
        *,
        run: Callable[..., Awaitable[Any]],
        wake: Callable[[str], None],
        sample_s: float,
        hold_s: float,
    ) -> None:
        """
        Args:
            calls: folder of the gateway's call log.
            run: calls a function in a thread.
            wake: makes the drivers of an endpoint look.
            sample_s: seconds between two samples; ten make a decision.
            hold_s: seconds that a need is remembered before replicas go.
        """
        self._ledger = ledger
        self._demand = demand
        self._calls = calls
        self._run = run
        self._wake = wake
        self._sample_s = sample_s
        self._hold = timedelta(seconds=hold_s)
        self._samples: dict[str, list[int]] = {}
        self._asked: dict[str, Recommendations] = {}
        self._use = MachineUse()

    async def follow(self) -> None:
        """For ever. A failure is said and tried again; replicas stay as they were."""
        while True:
            await asyncio.sleep(self._sample_s)
            for record in self._ledger.all():
                config = record.spec.autoscale_config
                if config is None or not _scales(record):
                    self._samples.pop(record.name, None)
                    self._asked.pop(record.name, None)
                    self._use.forget(record.name)
                    continue
                samples = self._samples.setdefault(record.name, [])
                samples.append(self._demand.under_way(record.name))
                if len(samples) >= _SAMPLES:
                    try:
                        await self._decide(record, config, fmean(samples))
                    except Exception:
                        log.exception("%s: how many replicas it needs cannot be told", record.name)
                    samples.clear()

    async def _decide(self, record: EndpointRecord, config: AutoscaleConfig, concurrency: float) -> None:
        load = await self._run(self._load, record, config, concurrency)
        current = self._ledger.find(record.name)
        if current is None or current.spec != record.spec or not _scales(current):
            return
        spec = current.spec
        fewest = max(1, spec.min_replicas)
        asked = replicas_for(load, config.targets, max(1, len(current.urls())), fewest, spec.max_replicas)
        history = self._asked.setdefault(record.name, Recommendations(self._hold))
        wanted = history.add(datetime.now(UTC), asked)
        if wanted != current.wanted:
            log.info("%s: %d replicas instead of %d, %s", record.name, wanted, current.wanted, load)
            self._ledger.note(current.model_copy(update={"scaled_to": wanted}).fitted(datetime.now(UTC)))
            self._wake(record.name)

    def _load(self, record: EndpointRecord, config: AutoscaleConfig, concurrency: float) -> Load:
        metrics = {target.metric for target in config.targets}
        load = Load(concurrency=concurrency)
        if metrics & {"throughput", "latency"}:
            now = datetime.now(UTC)
            calls = endpoint_calls(self._calls, record.name, now - _LOGGED, now)
            load = Load(
                concurrency=concurrency,
                throughput=calls.answered / _LOGGED.total_seconds(),
                latency_ms={None: calls.avg_latency_ms, **calls.latency_ms},
            )
        if metrics & {"cpu", "ram"}:
            load = load.model_copy(update=self._use.read(record.spec, running_replicas(record))._asdict())
        return load


def _scales(record: EndpointRecord) -> bool:
    """Whether the endpoint may have more or fewer replicas, by something that is followed here."""
    config = record.spec.autoscale_config
    followed = config is not None and any(target.metric in FOLLOWED for target in config.targets)
    awake = record.desired == "Running" and record.status().state is EndpointState.RUNNING
    return followed and awake and record.spec.max_replicas > max(1, record.spec.min_replicas)
