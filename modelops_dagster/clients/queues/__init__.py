"""The queues of ASYNC endpoints, on Redis streams or on RabbitMQ."""

from modelops_dagster.clients.queues.broker import Broker, Delivery, Lane
from modelops_dagster.clients.queues.opening import open_broker
from modelops_dagster.clients.queues.submissions import follow_answers, submit

__all__ = ["Broker", "Delivery", "Lane", "follow_answers", "open_broker", "submit"]
