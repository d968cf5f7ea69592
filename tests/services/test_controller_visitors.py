"""How often a visitor may ask, on a clock of its own."""

from modelops_dagster.services.controller.visitors import BURST, MOST_ADDRESSES, PER_S, VisitorRate


def test_an_address_has_a_burst_and_then_its_rate_and_another_one_its_own():
    now = 0.0
    rate = VisitorRate(lambda: now)
    assert [rate.admits("a") for _ in range(int(BURST) + 2)] == [True] * int(BURST) + [False] * 2
    assert rate.admits("b")
    admitted = 0
    for _ in range(1000):
        now += 0.01
        admitted += rate.admits("a")
    assert abs(admitted - 10 * PER_S) <= 1
    now += 3600
    assert sum(rate.admits("a") for _ in range(1000)) == BURST, "a bucket does not overflow"


def test_addresses_that_were_idle_for_longest_are_forgotten():
    rate = VisitorRate(lambda: 0.0)
    while rate.admits("spent"):
        pass
    for number in range(MOST_ADDRESSES):
        rate.admits(str(number))
    assert rate.admits("spent")
