"""What a model occupied of the hardware: for its evaluation, and for everything else, which is serving."""

from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from modelops_dagster.clients.endpoints.history import History
from modelops_dagster.clients.endpoints.records import EndpointRecord
from modelops_dagster.domain.monitoring import Span, costs, replica_hours
from modelops_dagster.domain.values import Value


class Occupancy(Value):
    """Hours that the engines of an endpoint held the hardware, added up over replicas, since it was made."""

    gpus: int = Field(description="accelerators of one replica; 0: it runs on processors")
    evaluation_hours: float = Field(description="while the verdict's answers were given, until the verdict")
    serving_hours: float = Field(description="the rest")
    usd: float | None = Field(description="all of them at the price of the endpoint's spec; None: it names none")

    @property
    def hours(self) -> tuple[float, float]:
        """(evaluation, serving), in GPU-hours where there are accelerators, else in engine-hours."""
        each = self.gpus or 1
        return self.evaluation_hours * each, self.serving_hours * each

    @property
    def unit(self) -> str:
        return "GPU-hours" if self.gpus else "engine-hours on processors"


def occupancy(controller: Path, endpoint: str, asked: Span | None, now: datetime) -> Occupancy | None:
    """What the controller wrote down of the endpoint; None where it is deleted, or somebody else's.

    Args:
        controller: the controller's folder.
        asked: from the first answer that the verdict rests on to the verdict.
    """
    try:
        record = EndpointRecord.model_validate_json((controller / "endpoints" / f"{endpoint}.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # a record that cannot be read is the controller's to put aside and to tell of
    stands = History(controller / "history").stands(endpoint)
    if record.spec.is_external or not stands:
        return None
    whole = replica_hours(stands, Span(stands[0].at, now))
    evaluation = replica_hours(stands, asked) if asked is not None else 0.0
    usd, _ = costs(whole, record.spec.usd_per_hour, 0)
    return Occupancy(gpus=record.spec.gpus, evaluation_hours=evaluation, serving_hours=whole - evaluation, usd=usd)
