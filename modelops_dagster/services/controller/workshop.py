"""What every driver of a replica works with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from modelops_dagster.clients.endpoints import EndpointBackend
from modelops_dagster.domain.engines import FailureReason
from modelops_dagster.domain.lifecycle import RestartPolicy
from modelops_dagster.services.controller.accelerators import Accelerators
from modelops_dagster.services.controller.idleness import Idleness
from modelops_dagster.services.controller.wishes import Ledger

Diagnose = Callable[[str, int | None, bool], tuple[FailureReason, str]]  # (log tail, exit code, timed out)


@dataclass(frozen=True)
class Workshop:
    """What every driver works with. `run` calls a function in a thread, `wake` the drivers of an endpoint."""

    ledger: Ledger
    backend: EndpointBackend
    idleness: Idleness
    accelerators: Accelerators
    diagnose: Diagnose
    policy: RestartPolicy
    run: Callable[..., Awaitable[Any]]
    wake: Callable[[str], None]
    tick_s: float
    ask_every_s: float
