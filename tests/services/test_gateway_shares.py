"""A split of 95 to 5 and sticky users, by real calls through the real gateway with both of its workers."""

from collections import Counter

import pytest

from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import Gateway, ask_many, endpoints, put, target

Z = 3.89  # 9,999 times in 10,000 it is nearer


@pytest.mark.parametrize("calls", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_95_to_5_is_within_what_chance_allows(
    gateway: Gateway, backends: tuple[FakeBackend, FakeBackend], calls: int
) -> None:
    alpha, beta = backends
    put(gateway, f"acme/split-{calls}", target(alpha, weight=95), target(beta, weight=5))
    answers = ask_many(gateway, gateway.key(), f"acme/split-{calls}", calls)
    assert Counter(a.status_code for a in answers) == {200: calls}
    counted = endpoints(answers)
    assert counted.total() == calls
    assert abs(counted["beta"] - 0.05 * calls) < Z * (calls * 0.05 * 0.95) ** 0.5, counted


@pytest.mark.parametrize("calls", [1_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_every_user_stays_with_one_endpoint_and_the_users_are_split_95_to_5(
    gateway: Gateway, backends: tuple[FakeBackend, FakeBackend], calls: int
) -> None:
    alpha, beta = backends
    put(gateway, f"acme/sticky-{calls}", target(alpha, weight=95), target(beta, weight=5), sticky=True)
    users = [f"user-{i}" for i in range(calls // 4)]
    answers = ask_many(
        gateway, gateway.key(), f"acme/sticky-{calls}", calls, lambda n: {"x-modelops-user": users[n % len(users)]}
    )
    assert Counter(a.status_code for a in answers) == {200: calls}
    by_user: dict[str, set[str]] = {}
    for answer in answers:
        by_user.setdefault(answer.request.headers["x-modelops-user"], set()).update(endpoints([answer]))
    assert len(by_user) == len(users)
    assert {len(found) for found in by_user.values()} == {1}
    moved = sum(found == {"beta"} for found in by_user.values())
    assert abs(moved - 0.05 * len(users)) < Z * (len(users) * 0.05 * 0.95) ** 0.5
