"""Jobs that people click: promote, roll back, start and stop an endpoint, evaluate again. As the commands do it."""

import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field, ValidationError

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.operation_metadata import change_metadata, status_metadata
from modelops_dagster.clients.moves import Moves
from modelops_dagster.clients.reports.pages import page_name
from modelops_dagster.clients.rollout import Change, Rollout
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import Grant
from modelops_dagster.domain.lanes import DECIDE_AGAIN, LANES, decide_job
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import ControllerResource, GatewayResource, ScoreResource


class PromoteConfig(dg.Config):
    """Which endpoint gets the whole alias."""

    alias: str = Field(description="What clients call, e.g. org/name.")
    endpoint: str = Field(default="", description="The endpoint to promote; empty: the canary of the alias.")
    override_by: str = Field(
        default="", description="Who answers for an endpoint without a passing verdict; usually empty."
    )
    override_reason: str = Field(default="", description="Why; needed with override_by.")


class RollBackConfig(dg.Config):
    """Which route goes back."""

    alias: str = Field(description="What clients call, e.g. org/name.")
    to_version: int = Field(default=0, ge=0, description="Version to go back to; 0: the one before the present one.")


class EndpointConfig(dg.Config):
    """Which endpoint."""

    endpoint: str = Field(description="Its name, as `modelops endpoints list` prints it.")
    timeout_s: float = Field(default=900.0, gt=0, description="Longest to wait until it is done, in seconds.")


@dg.op(description="Give an endpoint the whole alias at once; the others stay for a roll-back.")
def promote_endpoint(
    context: dg.OpExecutionContext,
    config: PromoteConfig,
    gateway: GatewayResource,
    controller: ControllerResource,
    lineage: LineageResource,
    scores: ScoreResource,
) -> None:
    with clear_failure():
        moves = _moves(gateway, controller, lineage)
        done = moves.promote(config.alias, config.endpoint or None, override=_override(config))
        _show(context, done, gateway, controller, scores)


@dg.op(description="Put back what the route was before its last change.")
def roll_back_route(
    context: dg.OpExecutionContext,
    config: RollBackConfig,
    gateway: GatewayResource,
    controller: ControllerResource,
    lineage: LineageResource,
    scores: ScoreResource,
) -> None:
    with clear_failure():
        done = _moves(gateway, controller, lineage).rollback(config.alias, config.to_version or None)
        _show(context, done, gateway, controller, scores)


@dg.op(description="Start an endpoint and wait until it answers.")
def start_one(
    context: dg.OpExecutionContext, config: EndpointConfig, gateway: GatewayResource, controller: ControllerResource
) -> None:
    with clear_failure():
        client = controller.client()
        client.start(config.endpoint)
        status = client.wait_ready(config.endpoint, config.timeout_s)
    if status.url is None:
        raise dg.Failure(description=f"{config.endpoint} is {status.state}: {status.message}", allow_retries=False)
    context.add_output_metadata(
        {
            "start_seconds": status.start_seconds or 0.0,
            **status_metadata(status, gateway.routes().list(), controller.page(config.endpoint)),
            "url": dg.MetadataValue.url(status.url),
        }
    )


@dg.op(description="Stop an endpoint and wait until no process of it is left. Routes that name it keep doing so.")
def stop_one(
    context: dg.OpExecutionContext, config: EndpointConfig, gateway: GatewayResource, controller: ControllerResource
) -> None:
    begun = time.monotonic()
    with clear_failure():
        client = controller.client()
        status = client.stop(config.endpoint)
        client.wait_stopped(config.endpoint, config.timeout_s)
        # somebody may delete it the moment it has stopped
        status = client.get(config.endpoint) or status
    context.add_output_metadata(
        {
            "stop_seconds": round(time.monotonic() - begun, 2),
            **status_metadata(status, gateway.routes().list(), controller.page(config.endpoint)),
        }
    )
    context.log.info(f"{config.endpoint} is stopped")


@dg.job(description="Give an endpoint the whole alias at once: the same as `modelops routes promote`.")
def promote() -> None:
    promote_endpoint()


@dg.job(description="Put back what a route was: the same as `modelops routes rollback`.")
def roll_back() -> None:
    roll_back_route()


@dg.job(description="Start an endpoint: the same as `modelops endpoints start`.")
def start_endpoint() -> None:
    start_one()


@dg.job(description="Stop an endpoint: the same as `modelops endpoints stop`.")
def stop_endpoint() -> None:
    stop_one()


re_evaluate = dg.define_asset_job(
    "re_evaluate",
    selection=dg.AssetSelection.groups("raw") - dg.AssetSelection.assets(dg.AssetKey(["raw", "endpoint"])),
    description="Ask every suite again of the endpoint that serves a model, and decide and register anew.",
    tags={"modelops/chain": "re-evaluate"},
)
decide_again = [
    dg.define_asset_job(
        decide_job(lane.name),
        selection=dg.AssetSelection.assets([lane.name, "verdict"], [lane.name, "gateway_registration"]),
        description=f"Decide and register a held model of the lane {lane.name} anew, from its stored answers and "
        "people's labels: the same as `modelops verdict reopen`. Nothing is asked.",
        tags=DECIDE_AGAIN,
    )
    for lane in LANES
]
OPERATIONS = (promote, roll_back, start_endpoint, stop_endpoint, re_evaluate)


def _override(config: PromoteConfig) -> Grant | None:
    """What a person answers for; kept in the route and its history.

    Raises:
        InvalidSpec: it does not say who and why.
    """
    if bool(config.override_by) != bool(config.override_reason):
        raise InvalidSpec("an override needs override_by and override_reason; give both or none.", field="override_by")
    if not config.override_by:
        return None
    try:
        return Grant(by=config.override_by, reason=config.override_reason, at=datetime.now(UTC))
    except ValidationError as error:
        raise InvalidSpec("override_reason must say why, in 3 to 500 characters.", field="override_reason") from error


def _moves(gateway: GatewayResource, controller: ControllerResource, lineage: LineageResource) -> Moves:
    rollout = Rollout(gateway.routes(), gateway.client(), lineage=Path(lineage.root))
    return Moves(rollout, gateway.routes(), controller.client)


def _show(
    context: dg.OpExecutionContext,
    done: Change,
    gateway: GatewayResource,
    controller: ControllerResource,
    scores: ScoreResource,
) -> None:
    report = scores.reports() / page_name(done.route.alias.partition(":")[0])
    context.add_output_metadata(
        change_metadata(done, gateway.url, controller.page, report if report.is_file() else None)
    )
