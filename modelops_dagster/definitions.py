"""The composition root: settings in, one set of Dagster definitions out."""

import dagster as dg

from modelops_dagster.assets.backfill import backfill_job
from modelops_dagster.assets.batch import answer_batch
from modelops_dagster.assets.describing import owned_by
from modelops_dagster.assets.eval_datasets import dataset_asset
from modelops_dagster.assets.lanes import lane_assets
from modelops_dagster.assets.operations import OPERATIONS, decide_again
from modelops_dagster.assets.quantized import lane_plan, quantized_weights
from modelops_dagster.assets.release import release
from modelops_dagster.assets.research import research
from modelops_dagster.assets.scores import leaderboard, report, scores_db_asset
from modelops_dagster.assets.watcher import watcher_asset
from modelops_dagster.assets.weights import raw_weights
from modelops_dagster.checks.lanes import lane_checks
from modelops_dagster.checks.recovery import recovery_check
from modelops_dagster.checks.weights import integrity
from modelops_dagster.clients.gauntlet.loading import load_suites
from modelops_dagster.domain.lanes import LANES, QUANTIZED_LANES, lane_job
from modelops_dagster.domain.upkeep import UpkeepPolicy
from modelops_dagster.resources.platform import build_resources, sealed
from modelops_dagster.sensors.alerts import alert_sensor
from modelops_dagster.sensors.endpoints import health_sensor, reaper_sensor
from modelops_dagster.sensors.frameworks import framework_sensor
from modelops_dagster.sensors.holds import hold_sensor
from modelops_dagster.sensors.hub import hub_sensor
from modelops_dagster.sensors.quantized import quantized_sensor
from modelops_dagster.sensors.retention import prune_checkpoints, prune_nightly
from modelops_dagster.settings import Settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """Everything Dagster knows, as a function of the settings.

    Steps of one run share one process: they wait for engines and endpoints that live elsewhere, and starting a process
    costs more than most of them take.
    """
    suites = load_suites(settings.eval_datasets)
    lanes = [asset for lane in LANES for asset in lane_assets(lane, suites)]
    onboard = dg.define_asset_job(
        "onboard",
        selection=dg.AssetSelection.assets(release, lane_plan, raw_weights) | dg.AssetSelection.groups("raw"),
        description="One revision from the Hub to the gateway: fetch, serve, evaluate, decide, register.",
        tags={"modelops/chain": "day-0"},
    )
    quantized = {
        lane.name: dg.define_asset_job(
            lane_job(lane.name),
            selection=dg.AssetSelection.assets(lane.checkpoint_asset) | dg.AssetSelection.groups(lane.name),
            description=f"The {lane.name} lane, from quantizing to the gateway. {lane.description}",
            tags={"modelops/chain": "day-2"},
        )
        for lane in QUANTIZED_LANES
    }
    weights = [release, lane_plan, raw_weights, *(quantized_weights(lane) for lane in QUANTIZED_LANES)]
    datasets = [dataset_asset(suite, settings.eval_datasets) for suite in suites]
    derived: list[dg.AssetsDefinition | dg.AssetSpec] = [
        scores_db_asset(LANES),
        leaderboard,
        report,
        watcher_asset(settings.hub_poll_interval_s),
    ]
    clicked = (*OPERATIONS, prune_checkpoints, answer_batch, research)
    return dg.Definitions(
        assets=owned_by([*weights, *lanes, *datasets, *derived], settings.asset_owners),
        asset_checks=[
            integrity,
            *(recovery_check(lane) for lane in QUANTIZED_LANES),
            *(check for lane in LANES for check in lane_checks(lane)),
        ],
        jobs=[onboard, *quantized.values(), backfill_job(suites), *decide_again, *clicked],
        schedules=[prune_nightly],
        sensors=[
            hub_sensor(onboard.name, settings.hub_poll_interval_s),
            quantized_sensor(quantized),
            framework_sensor(onboard.name, settings.framework_poll_interval_s),
            health_sensor(UpkeepPolicy()),
            reaper_sensor(UpkeepPolicy()),
            hold_sensor({lane.name: job for lane, job in zip(LANES, decide_again, strict=True)}, suites),
            alert_sensor(settings.alert_poll_interval_s, settings.dagster_url, settings.hub_url),
            dg.AutomationConditionSensorDefinition(
                "derived_assets",
                target=dg.AssetSelection.groups("scores"),
                description="Makes the score history, the leaderboard and the reports anew once something is decided.",
                minimum_interval_seconds=15,
                default_status=dg.DefaultSensorStatus.RUNNING,
            ),
        ],
        resources=sealed(build_resources(settings)),
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What `workspace.yaml` and `dg` load."""
    return build_definitions(Settings.load())
