"""What the chain leaves in the score history besides scores: how the ladder was climbed, and what became callable."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import dagster as dg

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.errors import ModelParked
from modelops_dagster.domain.lanes import endpoint_name
from modelops_dagster.domain.registration import Registration
from modelops_dagster.domain.scores import registration_row, rung_rows
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.hub_watch import HubWatchResource
from modelops_dagster.resources.platform import ScoreResource


def land_climb(scores: ScoreResource, lane: str, run_id: str, endpoint: Endpoint) -> None:
    """Land every rung that was tried until one held."""
    rows = rung_rows(
        endpoint.checkpoint,
        endpoint.ladder,
        run_id=run_id,
        lane=lane,
        endpoint_name=endpoint.name,
        at=datetime.now(UTC),
        endpoint=endpoint,
    )
    scores.store().land("rungs", rows, repo_id=endpoint.checkpoint.revision.repo_id, run_id=run_id)


@contextmanager
def landing_parked(scores: ScoreResource, lane: str, run_id: str, checkpoint: Checkpoint) -> Iterator[None]:
    """Land every rung that was tried when none held."""
    try:
        yield
    except ModelParked as error:
        name = endpoint_name(checkpoint.revision, lane)
        rows = rung_rows(checkpoint, error.ladder, run_id=run_id, lane=lane, endpoint_name=name, at=datetime.now(UTC))
        scores.store().land("rungs", rows, repo_id=checkpoint.revision.repo_id, run_id=run_id)
        raise


def land_registration(
    context: dg.AssetExecutionContext,
    scores: ScoreResource,
    watch: HubWatchResource,
    done: Registration,
    verdict: Verdict,
) -> None:
    """Land what the gateway was told, with when the commit appeared on the Hub and when this run was asked for."""
    record = context.instance.get_run_record_by_id(context.run.run_id)
    now = datetime.now(UTC)
    asked = record.create_timestamp if record is not None else now
    row = registration_row(
        done,
        verdict,
        run_id=context.run.run_id,
        first_seen_at=watch.store().log.first_seen(verdict.repo_id, done.commit_hash),
        requested_at=asked if asked.tzinfo else asked.replace(tzinfo=UTC),
        registered_at=now,
    )
    scores.store().land("registrations", [row], repo_id=verdict.repo_id, run_id=context.run.run_id)
