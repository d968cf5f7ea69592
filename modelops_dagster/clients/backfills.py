"""One suite asked of many models in one process: bounded, resumable, each result kept as soon as it is there."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.gauntlet.rescoring import rescore_suite
from modelops_dagster.clients.gauntlet.runner import ask_suite, run_context
from modelops_dagster.clients.lineage import latest_of
from modelops_dagster.clients.scores.answers import answers
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.backfills import BackfillOutcome, Done, Target, in_order
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, EvaluationFailed, InvalidSpec, ModelOpsError
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite

EVALUATED = "select distinct repo_id, lane, commit_hash, instrument from latest_scores where suite = ?"
LAST_ASKED = """
    select run_id, any_value(instrument_parts) from scores
    where repo_id = $repo_id and lane = $lane and commit_hash = $commit_hash and suite = $suite and endpoint = $endpoint
    group by run_id order by max(evaluated_at) desc limit 1
"""
STOP_TIMEOUT_S = 120.0
Evaluated = set[tuple[str, ...]]  # repo_id, lane, commit_hash, instrument


class Endpoints(Protocol):
    """The part of the controller's client that is needed."""

    def get(self, name: str) -> EndpointStatus | None: ...

    def start(self, name: str) -> Any: ...

    def stop(self, name: str) -> Any: ...

    def wait_ready(self, name: str, timeout_s: float) -> EndpointStatus: ...

    def wait_stopped(self, name: str, timeout_s: float) -> None: ...


def find_targets(lineage: Path, endpoints: Endpoints, lanes: Sequence[str], models: Sequence[str] = ()) -> list[Target]:
    """Every model that was ever served in one of the lanes, in the order to ask them.

    Raises:
        InvalidSpec: a model that is named was never served.
    """
    found = [
        Target(lane=lane, endpoint=endpoint, running=_answers(endpoints.get(endpoint.name)))
        for lane in lanes
        for repo_id, endpoint in latest_of(lineage, f"{lane}/endpoint").items()
        if not models or repo_id in models
    ]
    unknown = sorted(set(models) - {target.repo_id for target in found})
    if unknown:
        raise InvalidSpec(
            f"{unknown[0]!r} was never served in lane {' or '.join(lanes)}; name models that were, or none for all.",
            field="models",
        )
    return in_order(found)


class Backfill:
    """One suite over many targets.

    What has scores of this instrument on this commit is left alone, so that a backfill that was killed goes on where it
    stopped when it is started again; the model it was at goes on at the sample where it stopped.
    """

    def __init__(
        self,
        suite: Suite,
        *,
        store: ScoreStore,
        endpoints: Endpoints,
        work: Path,
        run_id: str,
        at_once: int = 4,
        awake: int = 1,
        wake_timeout_s: float = 900.0,
        again: bool = False,
        panel: Panel | None = None,
        kept: Callable[[Target], str | None] | None = None,
    ) -> None:
        """
        Args:
            run_id: whose rows they are; one that goes on under the same run_id replaces what a kill left half of.
            work: where journals of unfinished evaluations are.
            at_once: models that are asked at the same time.
            awake: of those, endpoints that were woken for it; as many as the machine holds beside what runs.
            again: ask also what has scores of this suite.
            panel: the graders that answers are put to which no code can score.
            kept: the instrument of the report that `on_done` kept last of a target. Scores without their report are
                what a kill left between the two; that target is asked again.
        """
        self.suite = suite
        self._store, self._endpoints, self._work, self._run_id = store, endpoints, work, run_id
        # load is measured by itself, or it measures its neighbours
        self._slots = asyncio.Semaphore(1 if suite.kind == "performance" else at_once)
        self._awake = asyncio.Semaphore(awake)
        self._wake_timeout_s, self._again = wake_timeout_s, again
        self._panel, self._kept = panel or Panel(), kept

    async def run(self, targets: Sequence[Target], on_done: Callable[[Done], None]) -> list[Done]:
        """Ask all of them; `on_done` is called with each result once it is stored, in the order they finish."""
        done: list[Done] = []
        # asked once: every answer of the history reads what landed since it was published, and much lands here
        evaluated = set(self._store.query(EVALUATED, [self.suite.name])[1])

        def keep(found: Done) -> None:
            done.append(found)
            on_done(found)

        async def one(target: Target) -> None:
            # a sleeping one waits for room before it takes a slot, so that it keeps none from one that runs
            async with contextlib.AsyncExitStack() as room:
                for needed in (self._slots,) if target.running else (self._awake, self._slots):
                    await room.enter_async_context(needed)
                unstopped = await self._finished(target, evaluated, keep)
            if unstopped:
                told = [
                    d.model_copy(update={"reason": d.reason or unstopped}) if d.target == target else d for d in done
                ]
                done[:] = told

        async with asyncio.TaskGroup() as group:
            for target in targets:
                group.create_task(one(target))
        return done

    async def _finished(self, target: Target, evaluated: Evaluated, keep: Callable[[Done], None]) -> str:
        """Ask it, keep what came of it, and only then put it back: stopping takes long enough to be killed in.

        Returns:
            Why it is still awake, or nothing.
        """
        unstopped = ""
        try:
            found = await self._asked(target, evaluated)
            if found.outcome != "current":
                row = found.row(self._run_id, self.suite.name, self.suite.digest)
                land = self._store.land
                await asyncio.to_thread(land, "backfills", [row], repo_id=target.repo_id, run_id=self._run_id)
            keep(found)
        finally:
            # one that a killed backfill left awake has its mark still: it is ours to put back
            if self._mark(target.endpoint.name).is_file():
                unstopped = await self._put_back(target.endpoint.name)
        return unstopped

    async def _asked(self, target: Target, evaluated: Evaluated) -> Done:
        begun = datetime.now(UTC)
        report, reason = None, ""
        outcome: BackfillOutcome = "current"
        is_current = self._is_current(target, evaluated)
        if self._again or not is_current:
            try:
                outcome, report = await self._evaluate(target, is_current)
            except EndpointFailed as error:
                outcome, reason = "unreachable", error.sentence
            except ModelOpsError as error:
                outcome, reason = "failed", error.sentence
        return Done(
            target=target, outcome=outcome, reason=reason, report=report, started_at=begun, ended_at=datetime.now(UTC)
        )

    async def _evaluate(self, target: Target, is_current: bool) -> tuple[BackfillOutcome, SuiteReport | None]:
        name = target.endpoint.name
        status = await asyncio.to_thread(self._endpoints.get, name)
        if status is None:
            if is_current:
                return "current", None  # the same answers by the same scorers are the same scores
            return "rescored", await asyncio.to_thread(self._rescore, target)
        if not _answers(status):
            self._mark(name).parent.mkdir(parents=True, exist_ok=True)
            self._mark(name).touch()
            await asyncio.to_thread(self._endpoints.start, name)
            status = await asyncio.to_thread(self._endpoints.wait_ready, name, self._wake_timeout_s)
        if status.url is None:
            raise EndpointFailed(f"its endpoint {name} does not start: {status.message or status.state}")
        report, _ = await ask_suite(
            self.suite,
            target.endpoint.model_copy(update={"url": str(status.url)}),
            lane=target.lane,
            run_id=self._run_id,
            work=self._work,
            land=self._store.land,
            panel=self._panel,
        )
        return "evaluated", report

    def _mark(self, name: str) -> Path:
        """The file that says that a backfill woke the endpoint."""
        return self._work / "woken" / name

    async def _put_back(self, name: str) -> str:
        """Stop it; why that failed, or nothing. The mark of one that failed stays for the next backfill."""
        try:
            if await asyncio.to_thread(self._endpoints.get, name) is not None:
                await asyncio.to_thread(self._endpoints.stop, name)
                await asyncio.to_thread(self._endpoints.wait_stopped, name, STOP_TIMEOUT_S)
        except ModelOpsError as error:
            return f"its endpoint {name} is still awake: {error.sentence}"
        self._mark(name).unlink(missing_ok=True)
        return ""

    def _is_current(self, target: Target, evaluated: Evaluated) -> bool:
        endpoint = target.endpoint
        samples = self.suite.asked(endpoint.max_context or None)
        graders = self._panel.scoring(self.suite, [endpoint])
        now = run_context(self.suite, samples, endpoint, target.lane, self._run_id, Chain(), graders).instrument
        commit = endpoint.checkpoint.revision.commit_hash
        if (target.repo_id, target.lane, commit, now) not in evaluated:
            return False
        return self._kept is None or self._kept(target) == now

    def _rescore(self, target: Target) -> SuiteReport:
        """Score the stored answers of a model whose endpoint is gone."""
        endpoint = target.endpoint
        found = self._store.query(LAST_ASKED, {**self._whose(target), "endpoint": endpoint.name})[1]
        if not found:
            raise EndpointFailed(
                f"its endpoint {endpoint.name} is gone, and no answers to {self.suite.name} are stored"
            )
        run_id, parts = found[0]
        stored = answers(self._store, run_id, self.suite.name, endpoint.name)
        try:
            return rescore_suite(
                self.suite,
                endpoint,
                stored,
                json.loads(parts or "{}"),
                lane=target.lane,
                run_id=self._run_id,
                land=self._store.land,
                panel=self._panel,
            )
        except EvaluationFailed as error:
            raise EndpointFailed(f"its endpoint {endpoint.name} is gone, and {error.sentence}") from error

    def _whose(self, target: Target) -> dict[str, object]:
        commit = target.endpoint.checkpoint.revision.commit_hash
        return {
            "repo_id": target.repo_id,
            "lane": target.lane,
            "commit_hash": commit,
            "suite": self.suite.name,
        }


def _answers(status: EndpointStatus | None) -> bool:
    return status is not None and status.url is not None
