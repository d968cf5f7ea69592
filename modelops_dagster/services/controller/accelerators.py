"""The accelerators of this machine: who has them, who waits, who makes room.

There is no table of slots that could leak: who has which devices is what the records of replicas and jobs say, and a
record says so exactly as long as a process of it may be alive. Used from the event loop's thread.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from modelops_dagster.clients.endpoints import EndpointRecord
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.scarcity import Allotment, Claim, Holding, allot
from modelops_dagster.services.controller.idleness import IDLE_ENOUGH_S, Idleness
from modelops_dagster.services.controller.wishes import Ledger

log = logging.getLogger("modelops.controller")
_NOT_LAUNCHED = frozenset({EndpointState.BUILDING, EndpointState.DEPLOYING})


class Users(Protocol):
    """Others than endpoints who use accelerators."""

    def claims(self) -> Iterable[Claim]: ...

    def holdings(self) -> Iterable[Holding]: ...


class Accelerators:
    """Answers claims, one at a time."""

    def __init__(self, slots: Sequence[str], ledger: Ledger, idleness: Idleness, wake: Callable[[str], None]) -> None:
        """
        Args:
            slots: names of the devices.
            wake: makes the drivers of an endpoint look.
        """
        self.slots = tuple(slots)
        self.users: list[Users] = []
        self._ledger = ledger
        self._idleness = idleness
        self._wake = wake
        self._granted: dict[str, tuple[Claim, tuple[str, ...]]] = {}
        self._evicted: dict[str, str] = {}  # owner -> for whom

    def require(self, count: int) -> None:
        """See that so many could ever be free.

        Raises:
            InvalidSpec: the machine has fewer.
        """
        if count > len(self.slots):
            has = counted(len(self.slots), "accelerator") if self.slots else "no accelerator"
            raise InvalidSpec(
                f"It asks for {counted(count, 'accelerator')} and this machine has {has}; ask for fewer, or declare "
                "what there is with MODELOPS_GPUS, e.g. 2xH100-80GB.",
                field="gpus",
            )

    def claim(self, claim: Claim) -> Allotment:
        """Devices, kept for the claim's owner until `settle`; or none, and whoever has to make room was told."""
        holdings = list(self.holdings())
        self._forget_who_left(holdings)
        others = [*self._endpoint_claims(), *(c for user in self.users for c in user.claims())]
        waiting = [c for c in others if c.owner not in self._granted]
        answer = allot(claim, waiting, self.slots, holdings)
        if answer.devices:
            self._granted[claim.owner] = (claim, answer.devices)
        for owner in answer.to_sleep:
            self._press(owner, claim)
        for owner in answer.to_evict:
            log.info("%s: evicted for %s", owner, claim.owner)
            self._evicted[owner] = claim.owner
            self._wake(endpoint_of(owner))
        return answer

    def settle(self, owner: str) -> None:
        """What was granted stands in the owner's record now, or is not needed."""
        self._granted.pop(owner, None)

    def evicted_for(self, owner: str) -> str | None:
        """For whom the owner has to make room; None: it may stay."""
        return self._evicted.get(owner)

    def left(self, owner: str) -> None:
        """The owner ended."""
        self._evicted.pop(owner, None)

    def holdings(self) -> Iterator[Holding]:
        """Everybody who has devices, or was granted some a moment ago."""
        found = [h for record in self._ledger.all() for h in self._endpoint_holdings(record)]
        found += [holding for user in self.users for holding in user.holdings()]
        known = {holding.owner for holding in found}
        for owner, (claim, devices) in self._granted.items():
            if owner not in known:
                found.append(
                    Holding(owner=owner, kind="endpoint", priority=claim.priority, devices=devices, since=claim.since)
                )
        return (h.model_copy(update={"leaving": h.leaving or h.owner in self._evicted}) for h in found)

    def _endpoint_holdings(self, record: EndpointRecord) -> Iterator[Holding]:
        for index, mine in enumerate(record.replicas):
            if mine.replica is not None and mine.replica.devices:
                wanted = record.desired_of(index) == "Running" and not record.is_outdated(index)
                idle = self._idleness.unused_for(record, mine, IDLE_ENOUGH_S)
                yield Holding(
                    owner=owner_of(record.name, index),
                    kind="endpoint",
                    priority=record.spec.priority,
                    devices=mine.replica.devices,
                    since=mine.replica.launched_at,
                    idle=idle,
                    leaving=not wanted or (idle and record.name in self._idleness.pressed),
                )

    def _endpoint_claims(self) -> Iterator[Claim]:
        for record in self._ledger.all():
            for index, mine in enumerate(record.replicas):
                waits = mine.state in _NOT_LAUNCHED and mine.replica is None and mine.waits_for
                if record.spec.gpus and waits and record.desired_of(index) == "Running":
                    yield endpoint_claim(record, index)

    def _press(self, owner: str, claim: Claim) -> None:
        name = endpoint_of(owner)
        log.info("%s: sleeps early, %s needs the room", name, claim.owner)
        self._idleness.pressed.add(name)
        self._wake(name)

    def _forget_who_left(self, holdings: Sequence[Holding]) -> None:
        here = {holding.owner for holding in holdings}
        self._evicted = {owner: by for owner, by in self._evicted.items() if owner in here}
        self._idleness.pressed &= {endpoint_of(holding.owner) for holding in holdings if holding.idle}


def owner_of(name: str, index: int) -> str:
    """A replica, as an owner of accelerators."""
    return name if index == 0 else f"{name}[{index}]"


def endpoint_of(owner: str) -> str:
    return owner.partition("[")[0]


def endpoint_claim(record: EndpointRecord, index: int) -> Claim:
    """What one replica needs."""
    return Claim(
        owner=owner_of(record.name, index),
        priority=record.spec.priority,
        count=record.spec.gpus,
        since=record.replicas[index].since,
    )
