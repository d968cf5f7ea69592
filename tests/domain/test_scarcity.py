"""Who gets accelerators: what is free, then who sleeps, then who is evicted, and never production."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.scarcity import RANK, Allotment, Claim, Holding, allot

AT = datetime(2026, 1, 2, tzinfo=UTC)
SLOTS = ("0", "1", "2", "3")


def claim(owner: str = "new", priority: Priority = Priority.PREVIEW, count: int = 1, after_s: int = 0) -> Claim:
    return Claim(owner=owner, priority=priority, count=count, since=AT + timedelta(seconds=after_s))


def held(
    owner: str, devices: str, priority: Priority = Priority.PREVIEW, *, kind: str = "endpoint", **more: object
) -> Holding:
    values = {"owner": owner, "kind": kind, "priority": priority, "devices": tuple(devices), "since": AT, **more}
    return Holding.model_validate(values)


FULL_OF_PRODUCTION = [held("a", "01", Priority.PRODUCTION, idle=True), held("b", "23", Priority.PRODUCTION)]
JOB = held("job", "01", Priority.RESEARCH, kind="job")
IDLE = held("idle", "23", idle=True)
BUSY = held("busy", "23")


@pytest.mark.parametrize(
    ("asked", "holdings", "devices", "to_sleep", "to_evict"),
    [
        (claim(count=2), [JOB], ("2", "3"), (), ()),
        (claim(count=4), [], SLOTS, (), ()),
        (claim(), [JOB, IDLE], (), ("idle",), ()),
        (claim(count=3), [JOB, IDLE], (), ("idle",), ("job",)),
        (claim(), [JOB, BUSY], (), (), ("job",)),
        (claim(count=3), [JOB, BUSY], (), (), ()),
        (claim(count=4, priority=Priority.PRODUCTION), [JOB, BUSY], (), (), ("job", "busy")),
        (claim(priority=Priority.PRODUCTION), FULL_OF_PRODUCTION, (), (), ()),
        (claim(priority=Priority.RESEARCH), [JOB, IDLE], (), (), ()),
        (claim(priority=Priority.RESEARCH), [JOB, held("r", "23", Priority.RESEARCH, idle=True)], (), ("r",), ()),
        (claim(count=2), [JOB.model_copy(update={"leaving": True}), BUSY], (), (), ()),
    ],
)
def test_who_makes_room(
    asked: Claim,
    holdings: list[Holding],
    devices: tuple[str, ...],
    to_sleep: tuple[str, ...],
    to_evict: tuple[str, ...],
):
    answer = allot(asked, [], SLOTS, holdings)
    assert (answer.devices, answer.to_sleep, answer.to_evict) == (devices, to_sleep, to_evict)
    assert bool(answer.message) is not bool(devices)


def test_of_two_jobs_the_one_that_loses_least_goes():
    old, new = JOB, held("younger", "23", Priority.RESEARCH, kind="job", since=AT + timedelta(hours=1))
    assert allot(claim(), [], SLOTS, [old, new]).to_evict == ("younger",)


def test_who_waits_is_told_for_what():
    assert allot(claim(count=2), [], SLOTS, FULL_OF_PRODUCTION).message == (
        "Waits for 2 accelerators: 0 of 4 are free; a (production) has 2, b (production) has 2."
    )
    assert allot(claim(), [], SLOTS, [JOB, BUSY]).message == (
        "Waits for 1 accelerator: 0 of 4 are free, and job makes room."
    )
    leaving = JOB.model_copy(update={"leaving": True})
    assert allot(claim(), [], SLOTS, [leaving, BUSY]).message.endswith("and job makes room.")


def test_a_large_claim_is_not_starved_by_small_ones():
    large, small = claim("large", count=3), claim("small", count=1, after_s=5)
    two_free = [held("p", "01", Priority.PRODUCTION)]
    answer = allot(small, [large], SLOTS, two_free)
    assert answer.devices == ()
    assert "others who wait go before it" in answer.message
    assert allot(small, [claim("later", count=3, after_s=9)], SLOTS, two_free).devices == ("2",)
    assert allot(claim("first", Priority.PRODUCTION, after_s=99), [large], SLOTS, two_free).devices == ("2",)


priorities = st.sampled_from(list(Priority))


@st.composite
def machines(draw: st.DrawFn) -> list[Holding]:
    owners = draw(st.lists(st.sampled_from("abcd"), min_size=4, max_size=4))
    holdings = []
    for name in sorted(set(owners)):
        devices = "".join(str(i) for i, owner in enumerate(owners) if owner == name)
        if draw(st.booleans()):
            flags = {"idle": draw(st.booleans()), "leaving": draw(st.booleans())}
            holdings.append(held(name, devices, draw(priorities), **flags))
    return holdings


@given(machines(), priorities, st.integers(1, 4))
def test_production_is_left_alone_and_nobody_is_disturbed_in_vain(
    holdings: list[Holding], priority: Priority, count: int
):
    answer: Allotment = allot(claim(priority=priority, count=count), [], SLOTS, holdings)
    by_owner = {holding.owner: holding for holding in holdings}
    taken = {device for holding in holdings for device in holding.devices}
    assert not set(answer.devices) & taken
    assert len(answer.devices) in (0, count)
    for owner in answer.to_sleep:
        assert by_owner[owner].idle
        assert RANK[by_owner[owner].priority] >= RANK[priority]
    for owner in answer.to_evict:
        assert RANK[by_owner[owner].priority] > RANK[priority]
    disturbed = [by_owner[owner] for owner in (*answer.to_sleep, *answer.to_evict)]
    assert all(holding.priority is not Priority.PRODUCTION and not holding.leaving for holding in disturbed)
    if disturbed:
        coming = sum(len(holding.devices) for holding in holdings if holding.leaving or holding in disturbed)
        assert len(SLOTS) - len(taken) + coming >= count
