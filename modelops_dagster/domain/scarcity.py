"""Who gets the accelerators of a machine when there are too few: what is free, then who sleeps, then who is evicted."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.values import Value

RANK = {Priority.PRODUCTION: 0, Priority.PREVIEW: 1, Priority.RESEARCH: 2}


class Claim(Value):
    """Somebody who waits for accelerators."""

    owner: str = Field(description="a replica of an endpoint, `name` or `name[1]`, or a job's id")
    priority: Priority
    count: int = Field(ge=1)
    since: datetime

    def goes_before(self, other: "Claim") -> bool:
        """Whether this claim is met first: by priority, then by who waits longer."""
        return (RANK[self.priority], self.since, self.owner) < (RANK[other.priority], other.since, other.owner)


class Holding(Value):
    """Somebody who has accelerators."""

    owner: str
    kind: Literal["endpoint", "job"]
    priority: Priority
    devices: tuple[str, ...]
    since: datetime = Field(description="when it began to use them")
    idle: bool = Field(default=False, description="an endpoint that may sleep, and that nobody uses now")
    leaving: bool = Field(default=False, description="it is being ended already")


class Allotment(Value):
    """What becomes of a claim: devices, or who has to make room, or neither and a sentence why it waits."""

    devices: tuple[str, ...] = ()
    to_sleep: tuple[str, ...] = Field(default=(), description="owners")
    to_evict: tuple[str, ...] = Field(default=(), description="owners")
    message: str = ""


def allot(claim: Claim, others: Sequence[Claim], slots: Sequence[str], held: Sequence[Holding]) -> Allotment:
    """Decide about one claim.

    Claims that go before this one keep what is free for themselves, so a large claim is not starved by small ones.
    Idle endpoints sleep first; then work of a lower priority is evicted, jobs before endpoints, and of those what has
    run the shortest time, since it loses least. Production is left alone, idle or not. Nobody is disturbed when it
    would not be enough.
    """
    taken = {device for holding in held for device in holding.devices}
    free = [device for device in slots if device not in taken]
    ahead = sum(other.count for other in others if other.owner != claim.owner and other.goes_before(claim))
    if claim.count + ahead <= len(free):
        return Allotment(devices=tuple(free[: claim.count]))
    coming = sum(len(holding.devices) for holding in held if holding.leaving)
    short = claim.count + ahead - len(free) - coming
    sleepers, victims = _who_makes_room(claim, held, short)
    message = _waits(claim, len(free), len(slots), held, to_come=coming, asked=(*sleepers, *victims), ahead=ahead)
    return Allotment(
        to_sleep=tuple(holding.owner for holding in sleepers),
        to_evict=tuple(holding.owner for holding in victims),
        message=message,
    )


def _who_makes_room(claim: Claim, held: Sequence[Holding], short: int) -> tuple[list[Holding], list[Holding]]:
    staying = [h for h in held if not h.leaving and h.priority is not Priority.PRODUCTION and h.owner != claim.owner]
    idle = [h for h in staying if h.idle and RANK[h.priority] >= RANK[claim.priority]]
    lower = [h for h in staying if RANK[h.priority] > RANK[claim.priority]]
    sleepers = sorted(idle, key=lambda h: (-RANK[h.priority], h.since))
    evictable = sorted(lower, key=lambda h: (-RANK[h.priority], h.kind != "job", -h.since.timestamp()))
    chosen: tuple[list[Holding], list[Holding]] = ([], [])
    for holding, to in [*((h, 0) for h in sleepers), *((h, 1) for h in evictable)]:
        if short > 0 and holding not in chosen[0]:
            chosen[to].append(holding)
            short -= len(holding.devices)
    return chosen if short <= 0 else ([], [])


def _waits(
    claim: Claim, free: int, total: int, held: Sequence[Holding], *, to_come: int, asked: Sequence[Holding], ahead: int
) -> str:
    """What the claim waits for, as a sentence."""
    wanted = f"Waits for {counted(claim.count, 'accelerator')}: {free} of {total} are free"
    making_room = [h.owner for h in held if h.leaving] if to_come else []
    making_room += [h.owner for h in asked]
    if making_room:
        return f"{wanted}, and {', '.join(making_room)} make{'s' if len(making_room) == 1 else ''} room."
    if ahead:
        return f"{wanted}, and others who wait go before it."
    users = ", ".join(f"{h.owner} ({h.priority}) has {len(h.devices)}" for h in held)
    return f"{wanted}; {users}." if users else f"{wanted}."
