"""The job `backfill`: one suite asked of every model in one run, each result recorded as soon as it is there."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.graders import grader_panel
from modelops_dagster.assets.metadata import report_metadata, table
from modelops_dagster.clients.backfills import Backfill, find_targets
from modelops_dagster.clients.gauntlet import event_loop
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.domain.backfills import Done, Target
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.lanes import LANES
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import ControllerResource, GatewayResource, GauntletResource, ScoreResource

SHOWN = 200


class BackfillConfig(dg.Config):
    """Which suite, and how much at once."""

    suite: str = Field(default="quality", description="The suite to ask, as it is now.")
    models: list[str] = Field(default=[], description="Repositories, org/name; empty: every model that was served.")
    lanes: list[str] = Field(default=[], description="Lanes, e.g. raw; empty: all of them.")
    at_once: int = Field(default=4, ge=1, le=256, description="Models that are asked at the same time.")
    awake: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Of those, sleeping endpoints that are woken for it at a time: as many as the hardware holds "
        "beside the endpoints that run.",
    )
    wake_timeout_s: float = Field(default=900.0, gt=0, description="Longest an endpoint may take to wake, in seconds.")
    again: bool = Field(default=False, description="Ask also models that have scores of this very suite.")


def backfill_job(suites: Sequence[Suite]) -> dg.JobDefinition:
    """One run for any number of models: a partition each would cost a process each, and a wait for the daemon."""
    by_name = {suite.name: suite for suite in suites}

    @dg.op(
        name="backfill_suite",
        description="Ask one suite of many models. Endpoints that sleep are woken one after the other and put back; "
        "models whose endpoint is gone are scored again from stored answers, or marked unreachable. What no code can "
        "score is put to the graders of graders.yaml.",
    )
    def backfill_suite(
        context: dg.OpExecutionContext,
        config: BackfillConfig,
        gauntlet: GauntletResource,
        scores: ScoreResource,
        gateway: GatewayResource,
        controller: ControllerResource,
        lineage: LineageResource,
    ) -> None:
        with clear_failure():
            suite = _asked(by_name, config.suite, gauntlet)
            # every suite, because an admission rests on what graders judged anywhere
            panel = grader_panel(suites if suite.groups_to_grade else (), gauntlet, scores, gateway, controller)
            _require_graders(suite, panel)
            lanes = config.lanes or [lane.name for lane in LANES]
            targets = find_targets(Path(lineage.root), controller.client(), lanes, config.models)
            context.log.info(
                f"{suite.name}: {counted(len(targets), 'model')}, {sum(t.running for t in targets)} of them awake"
            )
            work = Backfill(
                suite,
                store=scores.store(),
                endpoints=controller.client(),
                work=Path(gauntlet.work),
                run_id=_run_id(context),
                at_once=config.at_once,
                awake=config.awake,
                wake_timeout_s=config.wake_timeout_s,
                again=config.again,
                panel=panel,
                kept=lambda target: _kept(lineage, suite, target),
            )
            done = event_loop.run(work.run(targets, lambda one: _record(context, lineage, suite, one, len(targets))))
            scores.store().publish()
        _summarize(context, done)

    @dg.job(
        name="backfill",
        description="A suite, or a new version of one, over all models: one run, resumable, results as they come.",
        tags={"dagster/priority": "-5", "modelops/chain": "backfill"},
    )
    def backfill() -> None:
        backfill_suite()

    return backfill


def _asked(suites: dict[str, Suite], name: str, gauntlet: GauntletResource) -> Suite:
    """The suite as the policy asks it.

    Raises:
        InvalidSpec: there is no such suite.
    """
    if name not in suites:
        raise InvalidSpec(f"there is no suite {name!r}; the suites are {', '.join(suites)}.", field="suite")
    subsets = gauntlet.policy().subsets
    return suites[name].subset(subsets[name]) if name in subsets else suites[name]


def _require_graders(suite: Suite, panel: Panel) -> None:
    """Ask nobody what nobody could score.

    Raises:
        InvalidSpec: only a grader could score the suite, and none can be asked.
    """
    if suite.needs_graders and not panel.graders:
        why = f" ({' '.join(panel.notes)[:-1]})" if panel.notes else ""
        raise InvalidSpec(
            f"only a grader can score suite {suite.name!r} and none can be asked{why}: name one that answers in "
            "graders.yaml, then launch the backfill again.",
            field="suite",
        )


def _run_id(context: dg.OpExecutionContext) -> str:
    """Whose rows they are: a try that the daemon makes because a process died goes on as the first one did. What a
    person executes again is a run of its own, which takes nothing of the history away."""
    root = context.run.root_run_id
    return root if root and context.has_tag("dagster/retry_number") else context.run_id


def _kept(lineage: LineageResource, suite: Suite, target: Target) -> str | None:
    """The instrument of the report on the model's page."""
    report: SuiteReport | None = lineage.value(f"{target.lane}/gauntlet/{suite.name}", target.repo_id)
    return report.instrument if report is not None else None


def _record(context: dg.OpExecutionContext, lineage: LineageResource, suite: Suite, one: Done, total: int) -> None:
    """What one model's page shows, and what its next verdict reads."""
    context.log.info(f"{one.target.repo_id} ({one.target.lane}): {one.outcome}{one.reason and f', {one.reason}'}")
    if one.report is None:
        return
    key = [one.target.lane, "gauntlet", suite.name]
    context.log_event(
        dg.AssetMaterialization(
            asset_key=key,
            partition=one.target.repo_id,
            metadata={**report_metadata(one.report), "backfill": f"{one.outcome}, one of {total}"},
            tags={"dagster/data_version": f"{one.report.instrument.removeprefix('sha256:')[:12]}-{context.run_id[:8]}"},
        )
    )
    # last: what has its report kept is not asked again, and would never be shown
    lineage.keep("/".join(key), one.target.repo_id, context.run_id, one.report)


def _summarize(context: dg.OpExecutionContext, done: Sequence[Done]) -> None:
    order = ("failed", "unreachable", "rescored", "evaluated", "current")
    ranked = sorted(done, key=lambda d: (order.index(d.outcome), d.target.repo_id))
    rows = [
        {
            "model": d.target.repo_id,
            "lane": d.target.lane,
            "outcome": d.outcome,
            "reason": d.reason or None,
            "seconds": f"{(d.ended_at - d.started_at).total_seconds():.1f}",
        }
        for d in ranked[:SHOWN]
    ]
    counts = {outcome: sum(d.outcome == outcome for d in done) for outcome in order}
    context.add_output_metadata({**counts, "models": table(rows)})
    if counts["failed"]:
        first = ranked[0]
        raise dg.Failure(
            description=f"{counts['failed']} of {counted(len(done), 'model')} could not be evaluated, the first of "
            f"them {first.target.repo_id}: {first.reason} Run it again: what is done is not done again.",
            allow_retries=False,
        )
