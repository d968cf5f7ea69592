"""What every channel can do, and how one is made from its configuration."""

from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from modelops_dagster.clients.alerts.config import ChannelConfig, EmailChannel, SlackChannel
from modelops_dagster.clients.alerts.email import EmailSender
from modelops_dagster.clients.alerts.slack import SlackSender
from modelops_dagster.clients.alerts.webhook import WebhookSender
from modelops_dagster.domain.alerts import Message
from modelops_dagster.domain.errors import AlertNotSent

Secrets = Callable[[str], str | None]
"""Gives the value of an environment variable."""


class Sender(Protocol):
    """One channel, ready to send."""

    def send(self, message: Message) -> None:
        """Deliver one message.

        Raises:
            AlertNotSent: it was not taken, or not certainly.
        """


def sender(config: ChannelConfig, secrets: Secrets) -> Sender:
    """The channel a configuration describes.

    Raises:
        AlertNotSent: a variable that it names is not set.
    """

    def secret(name: str) -> str:
        value = secrets(name)
        if not value:
            raise AlertNotSent(f"channel {config.name}: the variable {name} is not set; set it and restart.")
        return value

    if isinstance(config, SlackChannel):
        return SlackSender(config.name, config.channel, secret(config.token_env), config.base_url, config.timeout_s)
    if isinstance(config, EmailChannel):
        login = (config.username, secret(config.password_env)) if config.username and config.password_env else None
        return EmailSender(config, login)
    url = config.url or secret(config.url_env or "")
    if urlsplit(url).scheme not in ("http", "https"):
        raise AlertNotSent(f"channel {config.name}: the variable {config.url_env} holds no http address; correct it.")
    key = secret(config.secret_env) if config.secret_env else None
    return WebhookSender(config.name, url, key, config.timeout_s)
