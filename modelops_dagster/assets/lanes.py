"""One factory for every lane: endpoint -> gauntlet suites -> verdict -> gateway_registration."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.assets.comparison import comparison_metadata
from modelops_dagster.assets.describing import score_table
from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.graders import grader_panel
from modelops_dagster.assets.history import land_climb, land_registration, landing_parked
from modelops_dagster.assets.metadata import (
    ladder_metadata,
    registration_metadata,
    report_metadata,
    verdict_metadata,
)
from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.progress import log_changes, log_tenths
from modelops_dagster.clients.addresses import as_it_answers
from modelops_dagster.clients.gauntlet.regrading import Regrading
from modelops_dagster.clients.gauntlet.runner import not_asked, run_suite
from modelops_dagster.clients.incumbents import FoundIncumbent, find_incumbent, gather_arms
from modelops_dagster.clients.ladder import climb
from modelops_dagster.clients.registration import apply_registration
from modelops_dagster.clients.reopening import hold_to_decide
from modelops_dagster.clients.reports import page_name
from modelops_dagster.clients.scores import ScoreStore, previous_comparison
from modelops_dagster.clients.swapping import apply_swap
from modelops_dagster.domain.alerts import DEADLINE
from modelops_dagster.domain.architectures import ruled_out
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.incumbents import incumbent_target
from modelops_dagster.domain.lanes import DECIDE_AGAIN, RAW, Lane, endpoint_name, served_model_name
from modelops_dagster.domain.registration import Registration
from modelops_dagster.domain.retries import RETRY_TAG, remembered, worth_climbing_again
from modelops_dagster.domain.verdicts import Policy, Verdict, judge, require_detectable_policy
from modelops_dagster.domain.watchlist import POLICY_TAG
from modelops_dagster.resources.hub_watch import HubWatchResource
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import (
    ControllerResource,
    EngineResource,
    GatewayResource,
    GauntletResource,
    ScoreResource,
)

STOP_TIMEOUT_S = 120.0
PARENT_TAG = "dagster/parent_run_id"  # on the run that Dagster makes of one that was killed
NO_GRADER = (
    "Not asked: only a grader or a person can judge it, graders.yaml names none that answers, and no policy asks."
)


def lane_assets(lane: Lane, suites: Sequence[Suite]) -> list[dg.AssetsDefinition]:
    """The assets of one lane, in the order of the chain."""
    return [
        _endpoint(lane),
        _gauntlet(lane, suites),
        _verdict(lane, suites),
        _gateway_registration(lane),
    ]


def _endpoint(lane: Lane) -> dg.AssetsDefinition:
    @dg.asset(
        key=[lane.name, "endpoint"],
        partitions_def=models,
        group_name=lane.name,
        kinds={"vllm"},
        pool="gpu",
        code_version="1",
        metadata=score_table("rungs"),
        ins={"checkpoint": dg.AssetIn(lane.checkpoint_asset)},
        description="One base URL that serves the checkpoint, on the highest rung of the ladder that holds it. "
        "The controller owns the process; it outlives the run.",
    )
    def endpoint(
        context: dg.AssetExecutionContext,
        checkpoint: Checkpoint,
        engines: EngineResource,
        controller: ControllerResource,
        lineage: LineageResource,
        scores: ScoreResource,
    ) -> dg.MaterializeResult[Endpoint]:
        with clear_failure():
            registry = engines.registry()
            client, versions = controller.client(), registry.installed_versions()
            name = endpoint_name(checkpoint.revision, lane.name)
            known = lineage.known_ladder(lane.name, checkpoint)
            if RETRY_TAG in context.run.tags and worth_climbing_again(known, versions) and client.get(name):
                context.log.info(f"{name} leaves its rung, because {context.run.tags[RETRY_TAG]} may let it climb")
                client.stop(name)
                client.wait_stopped(name, STOP_TIMEOUT_S)
            repo_id = checkpoint.revision.repo_id
            rungs = registry.rungs(engines.accelerator, checkpoint.architectures, repo_id)
            seen, rehearsed = lineage.preflight(checkpoint), lineage.rehearsal(checkpoint)
            left = ruled_out(rungs, seen.supports if seen is not None else (), versions)
            if rehearsed is not None:
                left = rehearsed.ruled_out(rungs, versions) | left
            with (
                landing_parked(scores, lane.name, context.run.run_id, checkpoint),
                lineage.parking(lane.name, checkpoint, context.run.run_id, versions),
            ):
                found = climb(
                    checkpoint=checkpoint,
                    rungs=rungs,
                    ruled_out=left,
                    placements=engines.placements(seen),
                    overlays=engines.overlays(repo_id, rungs),
                    controller=client,
                    registry=registry,
                    endpoint_name=name,
                    served_model_name=served_model_name(checkpoint.revision, lane.name),
                    max_context=min(checkpoint.max_context or engines.max_context, engines.max_context),
                    min_tokens_per_second=engines.min_tokens_per_second,
                    progress=log_changes(context.log),
                )
            found = found.model_copy(update={"ladder": remembered(found.ladder, known, versions)})
            land_climb(scores, lane.name, context.run.run_id, found)
        return dg.MaterializeResult(value=found, metadata=ladder_metadata(found))

    return endpoint


def _gauntlet(lane: Lane, suites: Sequence[Suite]) -> dg.AssetsDefinition:
    by_key = {dg.AssetKey([lane.name, "gauntlet", s.name]): s for s in suites}
    endpoint_key = dg.AssetKey([lane.name, "endpoint"])

    @dg.multi_asset(
        name=f"{lane.name}__gauntlet",
        can_subset=True,
        partitions_def=models,
        ins={"endpoint": dg.AssetIn(endpoint_key)},
        deps=[dg.AssetKey(["eval_datasets", s.name]) for s in suites],
        outs={suite.name: _suite_out(lane, key, suite) for key, suite in by_key.items()},
        internal_asset_deps={s.name: {endpoint_key, dg.AssetKey(["eval_datasets", s.name])} for s in suites},
    )
    def gauntlet(  # type: ignore[no-untyped-def] # an annotation here would make Dagster expect outputs without a value
        context: dg.AssetExecutionContext,
        endpoint: Endpoint,
        gauntlet: GauntletResource,
        scores: ScoreResource,
        gateway: GatewayResource,
        controller: ControllerResource,
    ):
        store = scores.store()
        with clear_failure():
            policy = gauntlet.policy(context.run.tags.get(POLICY_TAG))
            asked = {
                key: s.subset(policy.subsets[s.name]) if s.name in policy.subsets else s for key, s in by_key.items()
            }
            # it may have been restarted since it was materialized
            endpoint = as_it_answers(endpoint, controller.client(), log_changes(context.log))
            found = _incumbent(policy, list(asked.values()), endpoint, gateway, controller)
            panel = grader_panel(suites, gauntlet, scores, gateway, controller)
        for key, suite in asked.items():
            if key not in context.selected_asset_keys:
                continue
            if suite.needs_graders and not panel.graders and suite.name not in policy.named_suites:
                report = not_asked(suite, endpoint, lane=lane.name, run_id=context.run.run_id, why=NO_GRADER)
                yield _suite_result(key, report)
                continue
            with clear_failure():
                report = run_suite(
                    suite,
                    endpoint,
                    lane=lane.name,
                    run_id=context.run.run_id,
                    work=Path(gauntlet.work),
                    land=store.land,
                    progress=log_tenths(context.log, f"{suite.name}:", "requests"),
                    beside=found.beside if suite.name in policy.compared_suites else None,
                    panel=panel,
                )
            if found.note:
                report = report.model_copy(update={"incumbent_note": found.note})
            context.log.info(f"{suite.name}: {counted(report.n_samples, 'sample')} in {report.inference_seconds:.1f} s")
            yield _suite_result(key, report)

    return gauntlet


def _suite_result(key: dg.AssetKey, report: SuiteReport) -> dg.MaterializeResult[SuiteReport]:
    return dg.MaterializeResult(
        asset_key=key,
        value=report,
        metadata=report_metadata(report),
        data_version=dg.DataVersion(f"{report.instrument.removeprefix('sha256:')[:12]}-{report.run_id[:8]}"),
    )


def _suite_out(lane: Lane, key: dg.AssetKey, suite: Suite) -> dg.AssetOut:
    return dg.AssetOut(
        key=key,
        dagster_type=dg.Any,
        is_required=False,
        group_name=lane.name,
        kinds={"eval"},
        description=suite.description or suite.title,
        code_version=suite.digest.removeprefix("sha256:")[:12],
        metadata=score_table("scores"),
    )


def _incumbent(
    policy: Policy,
    suites: Sequence[Suite],
    endpoint: Endpoint,
    gateway: GatewayResource,
    controller: ControllerResource,
) -> FoundIncumbent:
    """Whom the candidate is compared with. A policy the suites cannot serve is refused first."""
    asked = {s.name: s.asked_of(endpoint.max_context) for s in suites if s.kind == "dataset"}
    require_detectable_policy(policy, asked)
    return find_incumbent(gateway.routes(), controller.client(), endpoint, policy)


def _verdict(lane: Lane, suites: Sequence[Suite]) -> dg.AssetsDefinition:
    reports = {s.name: dg.AssetIn([lane.name, "gauntlet", s.name]) for s in suites}

    @dg.asset(
        key=[lane.name, "verdict"],
        partitions_def=models,
        group_name=lane.name,
        kinds={"policy"},
        code_version="1",
        metadata=score_table("verdicts"),
        ins={"endpoint": dg.AssetIn([lane.name, "endpoint"]), **reports},
        description="pass, fail or hold, with every number it rests on. A fail is a result: the run succeeds.",
    )
    def verdict(
        context: dg.AssetExecutionContext,
        gauntlet: GauntletResource,
        scores: ScoreResource,
        gateway: GatewayResource,
        endpoint: Any,
        **reports: Any,
    ) -> dg.MaterializeResult[Verdict]:
        with clear_failure():
            revision = endpoint.checkpoint.revision
            store, now = scores.store(), datetime.now(UTC)
            # a report on another revision says nothing about this one: it counts as missing
            digest = endpoint.checkpoint.digest
            own = [r for r in reports.values() if r.endpoint.checkpoint.digest == digest and r.was_asked]
            about = (revision.repo_id, revision.commit_hash, lane.name)
            closes_at = store.first_decision(*about, now) + DEADLINE
            reopened = _reopened(context, store, about, now)
            held = reopened or store.held_before(*about)
            # a hold is decided about by the policy that it was made by, whatever the platform's own is
            policy = gauntlet.policy(reopened.policy if reopened else context.run.tags.get(POLICY_TAG))
            if held is not None and now < closes_at:
                own = Regrading(store, suites, gauntlet.graders(), lane.name, context.run.run_id).all(own)
            target = incumbent_target(gateway.routes().get(revision.repo_id), endpoint.name)
            arms, note = gather_arms(store, policy, own, target, now)
            found = judge(
                policy,
                own,
                repo_id=revision.repo_id,
                commit_hash=revision.commit_hash,
                lane=lane.name,
                endpoint=endpoint.name,
                decided_at=now,
                arms=arms,
                incumbent_note=note,
                closes_at=closes_at,
                reopens=held.verdict_id if held is not None else None,
            )
            if reopened is not None and found.verdict_id == reopened.verdict_id:
                found = reopened  # the labels so far change no number
            else:
                store.land_verdict(found, run_id=context.run.run_id)
            compared = previous_comparison(store, revision.repo_id, lane.name, revision.commit_hash)
        context.log.info(found.reason)
        page = scores.reports() / page_name(revision.repo_id)
        metadata = verdict_metadata(found, endpoint, page) | comparison_metadata(compared)
        return dg.MaterializeResult(value=found, metadata=metadata)

    return verdict


def _reopened(
    context: dg.AssetExecutionContext, store: ScoreStore, about: tuple[str, str, str], now: datetime
) -> Verdict | None:
    """The hold that a run of `decide_<lane>` is about; None in any other run."""
    if not DECIDE_AGAIN.items() <= context.run.tags.items():
        return None
    return hold_to_decide(store, *about, now, is_retry=PARENT_TAG in context.run.tags)


def _gateway_registration(lane: Lane) -> dg.AssetsDefinition:
    @dg.asset(
        key=[lane.name, "gateway_registration"],
        partitions_def=models,
        group_name=lane.name,
        kinds={"litellm"},
        code_version="1",
        metadata=score_table("registrations"),
        ins={"endpoint": dg.AssetIn([lane.name, "endpoint"]), "verdict": dg.AssetIn([lane.name, "verdict"])},
        description="The route that the verdict grants: pass -> preview, hold -> shadow, fail -> none. A quantized "
        "copy also takes the repository's own alias over, where the policy says so.",
    )
    def gateway_registration(
        context: dg.AssetExecutionContext,
        endpoint: Endpoint,
        verdict: Verdict,
        gateway: GatewayResource,
        controller: ControllerResource,
        scores: ScoreResource,
        hub_watch: HubWatchResource,
    ) -> dg.MaterializeResult[Registration]:
        with clear_failure():
            usd, now = gateway.endpoint_usd_per_hour, datetime.now(UTC)
            routes, client = gateway.routes(), gateway.client()
            swap = None
            if lane != RAW:
                swap = apply_swap(
                    *(routes, client, controller.client),
                    endpoint=endpoint,
                    verdict=verdict,
                    at=now,
                    usd_per_hour=usd,
                    say=context.log.info,
                )
                context.log.info(f"alias {swap.alias}: {swap.reason}")
            done = apply_registration(
                routes, client, endpoint=endpoint, verdict=verdict, at=now, usd_per_hour=usd
            ).model_copy(update={"swap": swap})
            land_registration(context, scores, hub_watch, done, verdict)
            for name in done.retired:
                controller.client().stop(name)
                context.log.info(f"stopped endpoint {name}: no route uses it any more")
        return dg.MaterializeResult(value=done, metadata=registration_metadata(done, gateway.url))

    return gateway_registration
