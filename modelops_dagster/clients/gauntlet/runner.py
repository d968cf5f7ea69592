"""Run one suite against one endpoint: a report, and rows that land as they are."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from modelops_dagster.clients.gauntlet import event_loop
from modelops_dagster.clients.gauntlet.beside import Beside, BothArms
from modelops_dagster.clients.gauntlet.contract import ContractRun
from modelops_dagster.clients.gauntlet.dataset import DatasetRun, Progress
from modelops_dagster.clients.gauntlet.journal import GradingJournal, Journal
from modelops_dagster.clients.gauntlet.panel import Graded, Panel
from modelops_dagster.clients.gauntlet.performance import measure_load
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import EvaluationFailed, ModelOpsError
from modelops_dagster.domain.gauntlet.aggregates import (
    contract_metrics,
    counted,
    dataset_metrics,
    lag_fault,
    load_metrics,
)
from modelops_dagster.domain.gauntlet.contract import CONTRACT_VERSION
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.report import Incumbent, Metric, SuiteReport
from modelops_dagster.domain.gauntlet.rows import Row, RunContext, request_row, score_rows
from modelops_dagster.domain.gauntlet.samples import Sample, canonical, digest
from modelops_dagster.domain.gauntlet.scorers import SCORER_VERSIONS
from modelops_dagster.domain.gauntlet.suite import Suite, items_digest

MAX_TOLD = 3  # reasons in the sentence of a suite that could not be scored; a dead endpoint gives one a request


class Land(Protocol):
    """Stores rows of one table durably and returns the file, as `ScoreStore.land` does. Landing again replaces."""

    def __call__(self, table: str, rows: Sequence[Row], *, repo_id: str, run_id: str) -> Path: ...


def run_suite(
    suite: Suite,
    endpoint: Endpoint,
    *,
    lane: str,
    run_id: str,
    work: Path,
    land: Land | None = None,
    progress: Progress | None = None,
    api_key: str | None = None,
    beside: Beside | None = None,
    chain: Chain | None = None,
    panel: Panel | None = None,
) -> SuiteReport:
    """`ask_suite` for callers without an event loop; returns the report alone."""
    report, _ = event_loop.run(
        ask_suite(
            suite,
            endpoint,
            lane=lane,
            run_id=run_id,
            work=work,
            land=land,
            progress=progress,
            api_key=api_key,
            beside=beside,
            chain=chain,
            panel=panel,
        )
    )
    return report


def not_asked(suite: Suite, endpoint: Endpoint, *, lane: str, run_id: str, why: str) -> SuiteReport:
    """The report of a suite that was left out: no rows, no numbers, and a note."""
    context = run_context(suite, suite.asked(), endpoint, lane, run_id, Chain(), {})
    run = _Run(suite, context, Path(), lambda done, total, text: None, None, Chain())
    return run.report([], [], (), 0.0, may_be_void=True).model_copy(update={"notes": (why,)})


def run_context(
    suite: Suite,
    samples: Sequence[Sample],
    endpoint: Endpoint,
    lane: str,
    run_id: str,
    chain: Chain,
    graders: Mapping[str, str],
) -> RunContext:
    """Who is asked, and with which instrument: samples as they are asked, and the graders that may score."""
    versions = SCORER_VERSIONS if suite.kind == "dataset" else {"contract": CONTRACT_VERSION}
    items = items_digest(samples)
    parts = suite.instrument_parts(samples, versions, chain.shape, graders, items)
    return RunContext(
        run_id=run_id,
        lane=lane,
        endpoint=endpoint,
        suite=suite.name,
        suite_digest=suite.digest_of(samples, items),
        instrument=digest(parts),
        instrument_parts=canonical(parts),
    )


async def ask_suite(
    suite: Suite,
    endpoint: Endpoint,
    *,
    lane: str,
    run_id: str,
    work: Path,
    land: Land | None = None,
    progress: Progress | None = None,
    api_key: str | None = None,
    beside: Beside | None = None,
    chain: Chain | None = None,
    panel: Panel | None = None,
) -> tuple[SuiteReport, list[Row]]:
    """Ask every sample, check or load request of the suite, and aggregate.

    `work` holds the journals of unfinished runs: a run that was killed goes on at the sample where it stopped when the
    same suite is asked of the same checkpoint, engine and lane again. `progress(done, total, text)` is called after
    every request. With `land` the rows land in the table `samples` (`perf_requests` for a performance suite) and the
    metrics in `scores`, before the journal is removed; without it the rows are the caller's to keep, the report's
    `samples_file` is empty, and the journal stays where the endpoint refused the key or the model before the end.

    A dataset suite is asked through the whole `chain`; a contract or performance suite judges the endpoint itself, so
    only what it takes to talk to it is kept: amended payloads and headers. A dataset suite may be asked of the
    incumbent `beside` the candidate: the same samples in one random order, at the same time. Its rows land as well, as
    arm `incumbent`; the rows returned and the metrics are the candidate's alone.

    Answers that code cannot score are put to the `panel`, whose calls land in `judgements`. They become scores where a
    grader is admitted and count nowhere else; the report's notes say so.

    Raises:
        EvaluationFailed: nothing could be scored; says why. Single failures are rows without a score instead.
        DiskFull: an answer could not be kept; those before it are.
    """
    contexts = [e.max_context for e in (endpoint, *([beside.endpoint] if beside else ())) if e.max_context]
    samples = suite.asked(min(contexts, default=None))
    chain = chain or Chain()
    if suite.kind != "dataset":
        chain = chain.transport
    panel = panel or Panel()
    graders = panel.scoring(suite, [endpoint, *([beside.endpoint] if beside else ())])
    context = run_context(suite, samples, endpoint, lane, run_id, chain, graders)
    run = _Run(suite, context, work, progress or (lambda done, total, text: None), api_key, chain)
    try:
        if suite.kind == "dataset":
            return await run.dataset(land, samples, beside, panel)
        if suite.kind == "contract":
            return await run.contract(land)
        return await run.performance(land)
    except ExceptionGroup as group:
        # of what broke tasks side by side, the first error that was raised on purpose says what to do
        found: Exception | None = group.subgroup(ModelOpsError)
        while isinstance(found, ExceptionGroup):
            found = found.exceptions[0]
        if found is None:
            raise
        raise found from None


class _Run:
    """The three kinds of suite, each ending in a report."""

    def __init__(
        self, suite: Suite, context: RunContext, work: Path, progress: Progress, api_key: str | None, chain: Chain
    ) -> None:
        self.suite = suite
        self.context = context
        self.work = work
        self.progress = progress
        self.api_key = api_key
        self.chain = chain
        self.started_at = datetime.now(UTC)

    async def dataset(
        self, land: Land | None, samples: Sequence[Sample], beside: Beside | None, panel: Panel
    ) -> tuple[SuiteReport, list[Row]]:
        with Journal(self.work, self.context) as journal, contextlib.ExitStack() as stack:
            asking = DatasetRun(self.suite.spec, samples, self.context, self.progress, self.chain)
            both = others = None
            if beside is None:
                rows = await asking.ask(journal, self.api_key)
            else:
                both = BothArms(asking, beside, self.progress)
                others = stack.enter_context(Journal(self.work, both.context))
                rows = await both.ask(journal, others, self.api_key)
            calls = None
            if panel.graders and self.suite.groups_to_grade:
                calls = stack.enter_context(GradingJournal(self.work, self._contexts(both)))
            graded = await self._graded(panel, rows, both, land, calls)
            rows = graded.rows[: len(rows)]
            known = counted(rows)
            metrics = dataset_metrics(self.suite.spec.metrics, rows, graded.calibrations)
            is_waiting = len(known) < len(rows)
            report = self.report(metrics, known, _lost(known), asking.inference_seconds, may_be_void=is_waiting)
            report = report.model_copy(update=graded.told | {"adapter": asking.adapter_summary})
            if both is not None:
                report = self._with_incumbent(report, both, land)
            report = await self._land(report, rows, land)
            # without a store, what was answered before a refusal waits here until the key or the model is set right
            is_done = land is not None or not asking.was_refused
            for kept in (journal, others, calls):
                if kept is not None and is_done:
                    kept.remove()
        return report, rows

    def _contexts(self, both: BothArms | None) -> list[RunContext]:
        return [self.context, *([both.context] if both else ())]

    async def _graded(
        self, panel: Panel, rows: list[Row], both: BothArms | None, land: Land | None, calls: GradingJournal | None
    ) -> Graded:
        """The candidate's rows with their verdicts, then the incumbent's: both are judged by the same graders."""
        contexts = self._contexts(both)
        others = both.rows if both else []
        judged = [c.endpoint for c in contexts]
        graded = await panel.grade(self.suite, [*rows, *others], judged, self.progress, calls)
        if both is not None:
            both.rows = graded.rows[len(rows) :]
        for context in contexts if land is not None else ():
            mine = [j for j in graded.judgements if (j["endpoint"], j["lane"]) == (context.endpoint.name, context.lane)]
            if mine and land is not None:
                repo_id = context.endpoint.checkpoint.revision.repo_id
                await asyncio.to_thread(land, "judgements", mine, repo_id=repo_id, run_id=context.run_id)
        return graded

    def _with_incumbent(self, report: SuiteReport, both: BothArms, land: Land | None) -> SuiteReport:
        """The report with who answered beside the candidate, or why nobody did."""
        endpoint, rows = both.context.endpoint, both.rows
        if land is not None:
            land("samples", rows, repo_id=endpoint.checkpoint.revision.repo_id, run_id=report.run_id)
        if all(row["score"] is None for row in counted(rows)) and counted(rows):
            why = (_lost(rows) or ("nothing was asked",))[0]
            return report.model_copy(update={"incumbent_note": f"{endpoint.name} could not be scored ({why})"})
        incumbent = Incumbent(
            endpoint=endpoint.name,
            commit_hash=endpoint.checkpoint.revision.commit_hash,
            engine=endpoint.engine,
            engine_version=endpoint.engine_version,
            run_id=report.run_id,
            interleaved=True,
            asked_at=self.started_at,
        )
        return report.model_copy(update={"incumbent": incumbent})

    async def contract(self, land: Land | None) -> tuple[SuiteReport, list[Row]]:
        asking = ContractRun(self.suite.spec, self.context, self.progress, self.api_key, self.chain)
        rows = await asking.ask()
        offered = [r for r in rows if r["outcome_class"] != "not_offered"]
        report = self.report(contract_metrics(rows), offered, asking.failing, asking.inference_seconds)
        return await self._land(report, rows, land), rows

    async def performance(self, land: Land | None) -> tuple[SuiteReport, list[Row]]:
        load = self.suite.spec.performance
        if load is None:
            raise EvaluationFailed(f"Suite {self.suite.name!r} has no performance settings.")
        result = await self._load()
        if lag_fault(load, result):  # something else wanted the processor: measure once more, then it counts
            result = await self._load()
        requests = [r for level in result["levels"] for r in level["requests"]]
        rows = [request_row(self.context, r) for r in requests]
        fault = lag_fault(load, result)
        scored = [{"score": None if fault or r["error"] else 1.0, "explanation": r["error_detail"]} for r in requests]
        failing = (fault,) if fault else _lost(scored)
        if not fault and requests and all(r["error"] for r in requests):
            raise self._failed(failing)
        report = self.report(load_metrics(load, result), scored, failing, result["inference_seconds"], may_be_void=True)
        return await self._land(report, rows, land), rows

    async def _load(self) -> dict[str, Any]:
        return await measure_load(
            self.suite.spec, self.context.endpoint, self.progress, self.api_key, transport=self.chain
        )

    def _failed(self, why: Sequence[str]) -> EvaluationFailed:
        endpoint = self.context.endpoint
        told = [*why[:MAX_TOLD], *([f"and {len(why) - MAX_TOLD} more"] if len(why) > MAX_TOLD else [])]
        return EvaluationFailed(
            f"Suite {self.suite.name!r} could not be scored on {endpoint.name!r} at {endpoint.url}: "
            f"{'; '.join(told) or 'there is nothing to ask'}."
        )

    def report(
        self,
        metrics: Sequence[Metric],
        rows: Sequence[Row],
        failing: Sequence[str],
        inference_seconds: float,
        *,
        may_be_void: bool = False,
    ) -> SuiteReport:
        unscored = sum(row["score"] is None for row in rows)
        if unscored == len(rows) and not may_be_void:
            raise self._failed(failing)
        return SuiteReport(
            suite=self.suite.name,
            suite_digest=self.context.suite_digest,
            instrument=self.context.instrument,
            run_id=self.context.run_id,
            endpoint=self.context.endpoint,
            metrics=tuple(metrics),
            n_samples=len(rows),
            n_unscored=unscored,
            failing=tuple(failing),
            started_at=self.started_at,
            ended_at=datetime.now(UTC),
            inference_seconds=inference_seconds,
            samples_file="",
            kind=self.suite.kind,
            specs=self.suite.spec.metrics,
            instrument_parts=self.context.instrument_parts,
            n_reserve=self.suite.n_reserve,
        )

    async def _land(self, report: SuiteReport, rows: Sequence[Row], land: Land | None) -> SuiteReport:
        """Both tables at once, off the event loop: writing to disk keeps no other suite waiting."""
        if land is None:
            return report
        whose = {"repo_id": report.endpoint.checkpoint.revision.repo_id, "run_id": report.run_id}
        table = "perf_requests" if self.suite.kind == "performance" else "samples"
        path, _ = await asyncio.gather(
            asyncio.to_thread(land, table, rows, **whose),
            asyncio.to_thread(land, "scores", score_rows(report, self.context.lane), **whose),
        )
        return report.model_copy(update={"samples_file": str(path)})


def _lost(rows: Sequence[Row]) -> tuple[str, ...]:
    """Why rows have no score, the most frequent reason first."""
    why = Counter(row["explanation"] or "no reason given" for row in rows if row["score"] is None)
    return tuple(f"{n} of {len(rows)} unscored: {text}" for text, n in why.most_common(5))
