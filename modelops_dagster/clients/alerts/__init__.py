"""Channels that carry alerts, and the outbox that makes one event one message."""

from modelops_dagster.clients.alerts.config import AlertConfig, load_alert_config
from modelops_dagster.clients.alerts.outbox import Outbox

__all__ = ["AlertConfig", "Outbox", "load_alert_config"]
