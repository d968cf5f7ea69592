"""Verbs that ask how an endpoint did and does."""

from datetime import datetime

from modelops_dagster.client.connection import Connection
from modelops_dagster.client.endpoints import endpoint_path
from modelops_dagster.domain.monitoring import EndpointHealth, EndpointMetrics

_METRICS_TIMEOUT_S = 60.0  # a long call log is read, and engines are asked


class MonitoringVerbs(Connection):
    """A time is how long ago (24h, 7d), an ISO 8601 text or a datetime."""

    def get_endpoint_metrics(
        self, name: str, since: str | datetime = "24h", until: str | datetime = "0s"
    ) -> EndpointMetrics:
        """Calls, latency, errors, availability and cost of a time range.

        Raises:
            NoSuchEndpoint: there is none of that name.
            InvalidSpec: a time is none, or the range ends before it begins.
        """
        params = {"since": _moment(since), "until": _moment(until)}
        answer = self._call("GET", endpoint_path(name, "/metrics"), params=params, timeout=_METRICS_TIMEOUT_S)
        return EndpointMetrics.model_validate(answer)

    def check_endpoint_health(self, name: str) -> EndpointHealth:
        """Ask the engine now whether it answers.

        Raises:
            NoSuchEndpoint: there is none of that name.
        """
        return EndpointHealth.model_validate(self._call("GET", endpoint_path(name, "/health")))


def _moment(at: str | datetime) -> str:
    return at if isinstance(at, str) else at.isoformat()
