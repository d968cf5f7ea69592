"""Where an endpoint answers now: the lineage keeps the address it had when it was materialized."""

from collections.abc import Callable

from modelops_dagster.clients.incumbents import WAKE_TIMEOUT_S, EndpointsPort
from modelops_dagster.domain.endpoints import Endpoint, EndpointState
from modelops_dagster.domain.errors import EndpointFailed, NotRunning


def as_it_answers(endpoint: Endpoint, endpoints: EndpointsPort, progress: Callable[[str], None]) -> Endpoint:
    """The endpoint at its present address. One that starts is waited for, and one that sleeps is woken.

    Where the controller does not answer, the endpoint may still do so where it did, and is returned as it was.

    Raises:
        EndpointFailed: it is gone, was stopped by somebody, or did not become ready.
    """
    name = endpoint.name
    try:
        status = endpoints.get(name)
        if status is not None and status.url is None and status.desired == "Running":
            progress(f"waiting for endpoint {name}, which is {status.state}")
            if status.state is EndpointState.SLEEPING:
                endpoints.start(name)
            status = endpoints.wait_ready(name, WAKE_TIMEOUT_S, queue_limit_s=WAKE_TIMEOUT_S)
    except NotRunning:
        return endpoint
    if status is None or status.url is None:
        state = f"is {status.state} ({status.message})" if status is not None else "is gone"
        raise EndpointFailed(f"Endpoint {name} {state}; start it, or materialize the asset endpoint again.")
    return endpoint.model_copy(update={"url": status.url})
