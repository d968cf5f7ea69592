"""Which endpoint answers: shares within what chance allows, and a sticky user always the same one."""

import math
import random
from collections import Counter

from modelops_dagster.domain.choosing import choose, position
from modelops_dagster.domain.gateway import RouteTarget


def target(name: str, weight: int) -> RouteTarget:
    return RouteTarget(
        endpoint=name, url="http://127.0.0.1:1/v1", served_model_name="m", commit_hash="c" * 40, weight=weight
    )


STABLE, CANARY = target("stable", 95), target("canary", 5)


def test_95_to_5_over_10000_calls_is_within_binomial_bounds() -> None:
    random.seed(20260102)
    n, p = 10_000, 0.05
    counted = Counter(choose([STABLE, CANARY], position("a", None)).endpoint for _ in range(n))
    spread = math.sqrt(n * p * (1 - p))
    assert abs(counted["canary"] - n * p) < 3.29 * spread, "outside what happens 999 times in 1,000"
    assert counted.total() == n


def test_95_to_5_over_10000_users_is_too_and_each_stays() -> None:
    users = [f"user-{i}" for i in range(10_000)]
    first = {u: choose([STABLE, CANARY], position("acme/tiny", u)).endpoint for u in users}
    spread = math.sqrt(10_000 * 0.05 * 0.95)
    assert abs(Counter(first.values())["canary"] - 500) < 3.29 * spread
    assert first == {u: choose([STABLE, CANARY], position("acme/tiny", u)).endpoint for u in users}
    elsewhere = {u: choose([STABLE, CANARY], position("acme/other", u)).endpoint for u in users}
    both = sum(first[u] == "canary" == elsewhere[u] for u in users)
    assert both < 60, "not the same users are first in everything"


def test_a_canary_that_grows_keeps_its_users() -> None:
    users = [f"user-{i}" for i in range(2_000)]

    def canary_users(share: int) -> set[str]:
        targets = [target("stable", 100 - share), target("canary", share)]
        return {u for u in users if choose(targets, position("a", u)).endpoint == "canary"}

    assert canary_users(5) < canary_users(20) < canary_users(60)


def test_what_failed_is_not_tried_again_while_something_else_is_there() -> None:
    assert choose([STABLE, CANARY], 0.1).endpoint == "stable"
    assert choose([STABLE, CANARY], 0.1, tried=["stable"]).endpoint == "canary"
    assert choose([STABLE, CANARY], 0.1, tried=["stable", "canary"]).endpoint == "stable"
    assert choose([CANARY], 0.999999).endpoint == "canary"
