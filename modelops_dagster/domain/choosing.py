"""Which of the granted endpoints answers one call: by weight, at random or the same one for the same user."""

import hashlib
import random
from collections.abc import Collection, Sequence

from modelops_dagster.domain.gateway import RouteTarget


def position(alias: str, user: str | None) -> float:
    """Where in [0, 1) a call falls: a point of its own for each call, the same one for a user of a sticky alias.

    The point is another one for every alias, so that it is not the same people who try everything first.
    """
    if user is None:
        return random.random()  # noqa: S311 - a share of traffic, not a secret
    digest = hashlib.sha256(f"{alias}\0{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose(targets: Sequence[RouteTarget], point: float, tried: Collection[str] = ()) -> RouteTarget:
    """The target whose share of the weights holds `point`; one that was not tried yet, while there is one.

    Shares lie in the order of the targets, so raising the last one's weight moves users to it and none away.

    Args:
        targets: at least one, each with a weight above 0.
        tried: names of endpoints that failed this call before.
    """
    left = [t for t in targets if t.endpoint not in tried] or list(targets)
    rest = point * sum(t.weight for t in left)
    for target in left:
        rest -= target.weight
        if rest < 0:
            return target
    return left[-1]
