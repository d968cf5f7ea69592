"""An endpoint that was restarted answers elsewhere than where the lineage saw it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from modelops_dagster.clients.addresses import as_it_answers
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.errors import EndpointFailed, NotRunning
from tests.clients.swap_verdicts import endpoint

THEN, NOW = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
SPEC = EndpointSpec(name="one", checkpoint="/c", checkpoint_digest="sha256:0", engine="e", served_model_name="m")


def status(state: EndpointState, **more: Any) -> EndpointStatus:
    return EndpointStatus(spec=SPEC, state=state, since=datetime.now(UTC), **{"desired": "Running", **more})


class Endpoints:
    """A controller whose one endpoint is first `seen`, and `settled` once it was waited for."""

    def __init__(self, seen: EndpointStatus | None, settled: EndpointStatus | None = None) -> None:
        self.seen, self.settled, self.started = seen, settled, False

    def get(self, name: str) -> EndpointStatus | None:
        return self.seen

    def start(self, name: str) -> EndpointStatus:
        self.started = True
        assert self.seen is not None
        return self.seen

    def wait_ready(self, name: str, timeout_s: float, *, queue_limit_s: float) -> EndpointStatus:
        assert self.settled is not None, "nothing was to be waited for"
        return self.settled


def url(endpoints: Endpoints, said: list[str]) -> str:
    return as_it_answers(endpoint("raw"), endpoints, said.append).url


RUNS = status(EndpointState.RUNNING, url=NOW)


def test_its_present_address_is_taken() -> None:
    said: list[str] = []
    assert url(Endpoints(RUNS), said) == NOW
    assert said == []


def test_one_that_starts_is_waited_for_and_one_that_sleeps_is_woken() -> None:
    said: list[str] = []
    starting = Endpoints(status(EndpointState.STARTUP), RUNS)
    assert url(starting, said) == NOW
    assert not starting.started
    sleeping = Endpoints(status(EndpointState.SLEEPING), RUNS)
    assert url(sleeping, said) == NOW
    assert sleeping.started
    assert [line.rsplit(" ", 1)[1] for line in said] == ["Startup", "Sleeping"]


@pytest.mark.parametrize(
    ("seen", "settled", "told"),
    [
        (None, None, "is gone"),
        (status(EndpointState.STOPPED, desired="Stopped", message="by ada"), None, r"is Stopped \(by ada\)"),
        (
            status(EndpointState.STARTUP),
            status(EndpointState.RUNTIME_ERROR, message="no memory"),
            r"is RuntimeError \(no memory\)",
        ),
    ],
)
def test_one_that_will_not_answer_is_told(
    seen: EndpointStatus | None, settled: EndpointStatus | None, told: str
) -> None:
    with pytest.raises(EndpointFailed, match=told):
        url(Endpoints(seen, settled), [])


def test_without_a_controller_it_stays_where_it_was() -> None:
    class Away(Endpoints):
        def get(self, name: str) -> EndpointStatus | None:
            raise NotRunning("The controller does not answer.")

    assert url(Away(None), []) == THEN
