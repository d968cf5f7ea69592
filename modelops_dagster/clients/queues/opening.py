"""Which program speaks to which server."""

from modelops_dagster.clients.queues.broker import Broker
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.queues import LEASE_S, QueueAddress, QueueKind


def open_broker(
    address: QueueAddress, username: str | None, password: str | None, *, lease_s: float = LEASE_S
) -> Broker:
    """The server at `address`; it is connected to when it is first used.

    Args:
        lease_s: seconds without a sign of life after which Redis' requests are taken from who holds them; RabbitMQ
            sees the connection end.

    Raises:
        UserError: what speaks to it is not installed.
    """
    try:
        if address.kind is QueueKind.REDIS:
            from modelops_dagster.clients.queues.redis_streams import RedisBroker

            return RedisBroker(address, username, password, lease_s=lease_s)
        from modelops_dagster.clients.queues.rabbitmq import RabbitBroker
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed, which speaks to {address.url}; "
            "install it with pip install 'modelops-dagster[async]'."
        ) from error
    return RabbitBroker(address, username, password)
