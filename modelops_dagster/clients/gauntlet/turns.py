"""The order in which candidate and incumbent are asked, side by side, and the rule that stops them for harm."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Literal

from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.policies import MarginRule
from modelops_dagster.domain.statistics.sequential import HarmWatch
from modelops_dagster.domain.verdicts.pairing import measured

ArmName = Literal["candidate", "incumbent"]
Key = tuple[str, int]


class Turns:
    """One random order of all samples for both arms, from `seed` alone, epoch after epoch.

    An arm waits where it would get more than `ahead` turns ahead of the other, so that whatever changes while a suite
    runs changes for both. With a rule, the pairs of the first epoch are watched in the order of their turns, and
    `stopped` says so once they show harm.
    """

    def __init__(self, keys: Sequence[Key], *, seed: str, ahead: int, rule: MarginRule | None = None) -> None:
        order = sorted(keys, key=lambda key: (key[1], key[0]))
        random.Random(seed).shuffle(order)  # noqa: S311 - the same order again for a run that resumes
        order.sort(key=lambda key: key[1])
        self.turn = {key: number for number, key in enumerate(order)}
        self.stopped = ""
        self._order = order
        self._ahead = ahead
        self._rule = rule
        self._rows: dict[ArmName, dict[Key, Row]] = {"candidate": {}, "incumbent": {}}
        self._left: set[ArmName] = set()
        self._watch = HarmWatch()
        self._looked = 0
        self._moved = asyncio.Event()

    def arm(self, name: ArmName) -> "Arm":
        """One arm's view."""
        return Arm(self, name)

    def marked(self, name: ArmName, rows: Iterable[Row]) -> list[Row]:
        """The rows with their arm and turn, as they land."""
        return [row | {"arm": name, "turn": self.turn[row["sample_id"], row["epoch"]]} for row in rows]

    async def _wait(self, name: ArmName, key: Key) -> None:
        other: ArmName = "incumbent" if name == "candidate" else "candidate"
        while not self.stopped and other not in self._left:
            if self.turn[key] <= len(self._rows[other]) + self._ahead:
                return
            await self._moved.wait()

    def _keep(self, name: ArmName, rows: Iterable[Row]) -> None:
        self._rows[name] |= {(row["sample_id"], row["epoch"]): row for row in rows}
        self._look()
        self._wake()

    def _leave(self, name: ArmName) -> None:
        self._left.add(name)
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _look(self) -> None:
        """Look at the pairs that are whole, never past one that is not: a replay sees them in the same order."""
        ours, theirs = self._rows["candidate"], self._rows["incumbent"]
        while self._rule and not self.stopped and self._looked < len(self._order):
            key = self._order[self._looked]
            if key[1] > 0 or key not in ours or key not in theirs:
                return
            self._looked += 1
            row = ours[key]
            a, b = measured(self._rule.measure, row), measured(self._rule.measure, theirs[key])
            is_covered = self._rule.expected in (None, row["expected"])
            if is_covered and a is not None and b is not None and self._watch.see(a - b, str(row["cluster"])):
                self.stopped = (
                    f"stopped for harm: of the pairs that differ the candidate lost {self._watch.worse} "
                    f"and won {self._watch.better}"
                )


class Arm:
    """What a run needs to know of the other one."""

    def __init__(self, turns: Turns, name: ArmName) -> None:
        self._turns = turns
        self._name: ArmName = name

    def turn(self, sample_id: str, epoch: int) -> int:
        """When the sample is to be asked, counted from 0."""
        return self._turns.turn[sample_id, epoch]

    async def wait(self, sample_id: str, epoch: int) -> None:
        """Until the other arm is near enough, has ended, or both are stopped."""
        await self._turns._wait(self._name, (sample_id, epoch))

    def keep(self, rows: Iterable[Row]) -> str:
        """Account for answers; why both arms have to stop, or ''."""
        self._turns._keep(self._name, rows)
        return self._turns.stopped

    @property
    def stopped(self) -> str:
        return self._turns.stopped

    def leave(self) -> None:
        """This arm asks nothing more."""
        self._turns._leave(self._name)
