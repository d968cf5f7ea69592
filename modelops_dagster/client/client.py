"""The client: a connection with every verb."""

from modelops_dagster.client.endpoints import EndpointVerbs
from modelops_dagster.client.monitoring import MonitoringVerbs


class ModelOpsClient(EndpointVerbs, MonitoringVerbs):
    """Talks to one controller. Verbs that ask for something return at once; `wait_ready` and `wait_stopped` wait.

    Args:
        base_url: of the controller, without a path.
        token: a key of it; sent only after the other side has said that it is a controller (of `home`, when given).
        timeout_s: for one request.
    """
