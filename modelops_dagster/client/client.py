"""The client: a connection with every verb."""

from modelops_dagster.client.batches import BatchVerbs
from modelops_dagster.client.endpoints import EndpointVerbs
from modelops_dagster.client.monitoring import MonitoringVerbs
from modelops_dagster.client.research import ResearchVerbs
from modelops_dagster.client.routes import RouteVerbs


class ModelOpsClient(EndpointVerbs, MonitoringVerbs, RouteVerbs, BatchVerbs, ResearchVerbs):
    """Talks to one controller. Verbs that ask for something return at once; `wait_ready` and `wait_stopped` wait.

    Args:
        base_url: of the controller, without a path.
        token: a key of it; sent only after the other side has said that it is a controller (of `home`, when given).
        timeout_s: for one request.
    """

    list_endpoints = EndpointVerbs.list
    delete_endpoint = EndpointVerbs.delete
