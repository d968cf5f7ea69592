"""Availability, replica hours and cost; and moments as people write them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.monitoring import (
    Span,
    Stand,
    answering,
    availability,
    costs,
    expected,
    health_status,
    replica_hours,
)
from modelops_dagster.domain.timespans import parse_moment

T0 = datetime(2026, 5, 1, tzinfo=UTC)


def at(hours: float) -> datetime:
    return T0 + timedelta(hours=hours)


def stand(hours: float, *, due: bool = True, up: bool = True, replicas: int = 1) -> Stand:
    return Stand(at=at(hours), expected=due, answering=up, replicas=replicas)


STANDS = [stand(0, due=False, up=False), stand(1), stand(4, up=False), stand(5), stand(8, due=False, replicas=0)]


def test_availability_is_of_the_time_it_should_answer():
    assert availability(STANDS, Span(at(0), at(10)), []) == (6 / 7, 7)
    assert availability(STANDS, Span(at(4), at(5)), []) == (0, 1), "down is 0 and not unknown"
    assert availability(STANDS, Span(at(8), at(10)), []) == (None, 0), "stopped on purpose is neither"
    assert availability([], Span(at(0), at(10)), []) == (None, 0)


def test_time_that_nobody_watched_is_counted_neither_way():
    assert availability(STANDS, Span(at(0), at(10)), [Span(at(4), at(5))]) == (1, 6)
    assert availability(STANDS, Span(at(0), at(10)), [Span(at(3.5), at(4.5))]) == (5.5 / 6, 6)


def test_replica_hours_are_clipped_to_the_range():
    assert replica_hours(STANDS, Span(at(0), at(10))) == 8
    assert replica_hours(STANDS, Span(at(7), at(9))) == 1
    assert replica_hours([stand(0, replicas=3)], Span(at(0), at(2))) == 6


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.booleans(), st.integers(0, 4)), max_size=8))
def test_two_halves_of_a_range_are_the_whole(changes: list[tuple[float, bool, bool, int]]):
    stands = [stand(h, due=due, up=up, replicas=n) for h, due, up, n in sorted(changes)]
    whole, first, second = (Span(at(a), at(b)) for a, b in ((0, 100), (0, 40), (40, 100)))
    assert replica_hours(stands, whole) == pytest.approx(
        replica_hours(stands, first) + replica_hours(stands, second), abs=1e-5
    )
    share, hours = availability(stands, whole, [])
    assert hours == pytest.approx(availability(stands, first, [])[1] + availability(stands, second, [])[1], abs=1e-5)
    assert share is None or 0 <= share <= 1


def test_a_start_that_was_asked_for_is_no_outage_and_one_after_a_crash_is():
    assert not expected(wanted=True, state=EndpointState.STARTUP, ever_ready=False)
    assert expected(wanted=True, state=EndpointState.STARTUP, ever_ready=True)
    assert expected(wanted=True, state=EndpointState.DEPLOY_FAILED, ever_ready=False)
    assert not expected(wanted=False, state=EndpointState.RUNNING, ever_ready=True)
    assert answering(EndpointState.RUNNING, None)
    assert answering(EndpointState.SLEEPING, None)
    assert not answering(EndpointState.RUNNING, "Unreachable")


def test_cost_is_unknown_without_a_price_or_tokens():
    assert costs(2, None, 100) == (None, None)
    assert costs(2, 1.5, 0) == (3, None)
    assert costs(2, 1.5, 1_500_000) == (3, 2)


@pytest.mark.parametrize(
    ("state", "wanted", "ready", "total", "status"),
    [
        (EndpointState.RUNNING, True, 1, 1, "healthy"),
        (EndpointState.RUNNING, True, 1, 2, "degraded"),
        (EndpointState.RUNNING, True, 0, 1, "unhealthy"),
        (EndpointState.STARTUP, True, 0, 1, "starting"),
        (EndpointState.RUNNING, False, 1, 1, "stopped"),
        (EndpointState.SLEEPING, True, 0, 0, "sleeping"),
        (EndpointState.RUNTIME_ERROR, True, 0, 1, "unhealthy"),
    ],
)
def test_health_is_one_word(state: EndpointState, wanted: bool, ready: int, total: int, status: str):
    assert health_status(state, wanted=wanted, ready=ready, total=total) == status


def test_moments():
    assert parse_moment("24h", T0, "since") == T0 - timedelta(days=1)
    assert parse_moment("2026-05-01T02:00:00+02:00", T0, "since") == T0
    assert parse_moment("2026-05-01", T0, "since") == T0
    for text in ("", "yesterday", "-5h", "٣h", "1.5h", "0001-01-01T00:00:00+05:00", "999999d" * 2):
        with pytest.raises(InvalidSpec) as error:
            parse_moment(text, T0, "since")
        assert error.value.field == "since"
    with pytest.raises(InvalidSpec):
        parse_moment("999999d", T0, "since")
