"""Slack: one `chat.postMessage` of the Web API per message."""

from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from modelops_dagster.domain.alerts import Message, Severity
from modelops_dagster.domain.errors import AlertNotSent

_MARK: dict[Severity, str] = {"info": "", "warning": ":warning: ", "critical": ":rotating_light: "}


class SlackSender:
    """Writes to one channel as one bot."""

    def __init__(self, name: str, channel: str, token: str, base_url: str, timeout_s: float) -> None:
        self._name, self._channel = name, channel
        # no retries in here: the outbox repeats, and a tick stays short
        url = base_url.rstrip("/") + "/"
        self._client = WebClient(token, base_url=url, timeout=max(1, round(timeout_s)), retry_handlers=[])

    def send(self, message: Message) -> None:
        """Post the message. A sentence of Slack's own (`channel_not_found`, `invalid_auth`) is passed on.

        Raises:
            AlertNotSent: Slack did not take it.
        """
        try:
            self._client.chat_postMessage(
                channel=self._channel,
                text=slack_text(message),
                unfurl_links=False,
                metadata={"event_type": "modelops_alert", "event_payload": {"message_id": message.message_id}},
            )
        except SlackApiError as error:
            raise AlertNotSent(
                f"channel {self._name}: Slack refused the message ({_reason(error)}); check the channel and the bot.",
                retry_after_s=_retry_after_s(error.response),
            ) from error
        except (SlackClientError, OSError, ValueError) as error:
            raise AlertNotSent(
                f"channel {self._name}: Slack did not answer ({type(error).__name__}); it is tried again."
            ) from error


def slack_text(message: Message) -> str:
    """The message in Slack's markup, with what would be markup in the text itself made harmless."""
    lines = [f"{_MARK[message.severity]}*{_plain(message.title)}*", *(_plain(line) for line in message.lines)]
    return "\n".join([*lines, *([f"<{message.url}|open>"] if message.url else [])])


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _reason(error: SlackApiError) -> str:
    response: Any = error.response
    said = response.get("error") if hasattr(response, "get") else None
    return str(said or f"status {getattr(response, 'status_code', '?')}")[:80]


def _retry_after_s(response: Any) -> float | None:
    headers = getattr(response, "headers", None) or {}
    asked = next((v for k, v in headers.items() if k.lower() == "retry-after"), "")
    asked = asked[0] if isinstance(asked, list) else asked
    return float(asked) if str(asked).isdigit() else None
