"""A webhook: one JSON document per message, signed when there is a key."""

import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

import httpx

from modelops_dagster.domain.alerts import Message
from modelops_dagster.domain.errors import AlertNotSent

SIGNATURE = "X-ModelOps-Signature"
TIMESTAMP = "X-ModelOps-Timestamp"
DELIVERY = "X-ModelOps-Delivery"


def signature(key: str, timestamp: str, body: bytes) -> str:
    """`sha256=` and HMAC-SHA256 over `<timestamp>.<body>`; a receiver refuses old timestamps, and so replays."""
    return "sha256=" + hmac.new(key.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class WebhookSender:
    """Posts to one address. Errors name its host only: the path may be a secret."""

    def __init__(self, name: str, url: str, key: str | None, timeout_s: float) -> None:
        self._name, self._url, self._key, self._timeout_s = name, url, key, timeout_s
        self._host = urlsplit(url).hostname or "the address"

    def send(self, message: Message) -> None:
        """Post the message; any 2xx is a receipt. Redirects are not followed.

        Raises:
            AlertNotSent: there was no receipt.
        """
        document = {**message.model_dump(mode="json"), "text": message.text}
        body = json.dumps(document, ensure_ascii=False).encode()
        now = str(int(time.time()))
        headers = {"Content-Type": "application/json", DELIVERY: message.message_id, TIMESTAMP: now}
        if self._key:
            headers[SIGNATURE] = signature(self._key, now, body)
        try:
            answer = httpx.post(self._url, content=body, headers=headers, timeout=self._timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AlertNotSent(
                f"channel {self._name}: {self._host} did not answer ({type(error).__name__}); it is tried again."
            ) from None  # the cause carries the whole address
        if not answer.is_success:
            asked = answer.headers.get("Retry-After", "")
            raise AlertNotSent(
                f"channel {self._name}: {self._host} answered {answer.status_code}; check the address and the key.",
                retry_after_s=float(asked) if asked.isdigit() else None,
            )
