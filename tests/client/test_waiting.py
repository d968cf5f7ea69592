"""How long a client waits: for the engine, and apart from that for accelerators."""

import time
from datetime import UTC, datetime

import pytest

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed

SPEC = EndpointSpec(
    name="small",
    model=f"acme/small@{'a' * 40}",
    checkpoint="/nowhere",
    checkpoint_digest="0" * 64,
    engine="vllm",
    served_model_name="small",
    gpus=1,
)
QUEUED = EndpointStatus(
    spec=SPEC,
    desired="Running",
    state=EndpointState.BUILDING,
    queued=True,
    message="Waits for 1 accelerator: 0 of 1 are free.",
    since=datetime(2026, 1, 1, tzinfo=UTC),
)
RUNNING = QUEUED.model_copy(
    update={"state": EndpointState.RUNNING, "queued": False, "message": "", "url": "http://127.0.0.1:1/v1"}
)


class QueuedFor(ModelOpsClient):
    """A controller whose one endpoint is queued for some seconds, and then runs."""

    def __init__(self, seconds: float) -> None:
        self._free_at = time.monotonic() + seconds

    def get(self, name: str) -> EndpointStatus | None:
        return RUNNING if time.monotonic() > self._free_at else QUEUED


def test_time_in_the_queue_is_not_the_engines():
    assert QueuedFor(3.0).wait_ready("small", timeout_s=2.0).url == RUNNING.url


def test_time_in_the_queue_has_a_limit_of_its_own():
    with pytest.raises(EndpointFailed) as failed:
        QueuedFor(60.0).wait_ready("small", timeout_s=50.0, queue_limit_s=0.5)
    assert failed.value.sentence == (
        "Endpoint small was queued for 0 minutes. Waits for 1 accelerator: 0 of 1 are free. "
        "Free some, or stop the endpoint, and try again."
    )
