"""Asking the incumbent the same samples beside the candidate, at the same time and with the same instrument."""

import asyncio
from dataclasses import dataclass

from modelops_dagster.clients.gauntlet.dataset import DatasetRun, Progress
from modelops_dagster.clients.gauntlet.journal import Journal
from modelops_dagster.clients.gauntlet.turns import Turns
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.rows import Row, RunContext
from modelops_dagster.domain.policies import MarginRule


@dataclass(frozen=True)
class Beside:
    """The incumbent, and the rule by which the comparison on the rule's suite may be stopped early for harm."""

    endpoint: Endpoint
    lane: str
    rule: MarginRule | None = None

    def context(self, candidate: RunContext) -> RunContext:
        """The candidate's context with the incumbent in its place."""
        return candidate.model_copy(update={"endpoint": self.endpoint, "lane": self.lane})


class BothArms:
    """The incumbent's run, and what ties it to the candidate's."""

    def __init__(self, run: DatasetRun, beside: Beside, progress: Progress) -> None:
        self.context = beside.context(run.context)
        keys = [(sample.id, epoch) for sample, epoch in run.wanted]
        self.turns = Turns(
            keys,
            seed=f"{run.context.journal_key} {self.context.journal_key}",
            ahead=2 * run.spec.requests.concurrency,
            rule=beside.rule if beside.rule and beside.rule.suite == run.context.suite else None,
        )
        self._run = run
        self._progress = progress
        self._done = {"candidate": 0.0, "incumbent": 0.0}
        self.rows: list[Row] = []

    async def ask(self, journal: Journal, others: Journal, api_key: str | None) -> list[Row]:
        """Ask both; returns the candidate's rows and keeps the incumbent's in `rows`, each with its arm and turn."""
        samples = list({sample.id: sample for sample, _ in self._run.wanted}.values())
        other = DatasetRun(self._run.spec, samples, self.context, self._told("incumbent"))
        self._run.beside(self.turns.arm("candidate"), self._told("candidate"))
        other.beside(self.turns.arm("incumbent"), self._told("incumbent"))
        async with asyncio.TaskGroup() as group:
            ours = group.create_task(self._run.ask(journal, api_key))
            # the key is for the candidate's endpoint; the incumbent is one of the platform's own and asks for none
            theirs = group.create_task(other.ask(others))
        self.rows = self.turns.marked("incumbent", theirs.result())
        return self.turns.marked("candidate", ours.result())

    def _told(self, arm: str) -> Progress:
        def tell(done: float, total: float, text: str) -> None:
            self._done[arm] = done
            self._progress(sum(self._done.values()), 2 * total, text if arm == "candidate" else f"incumbent {text}")

        return tell
