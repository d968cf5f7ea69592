"""The queue of an ASYNC endpoint: where it is, what its parts are called, and what travels through them.

One endpoint has one queue, whatever its revision: every replica takes from it. A request is a line of OpenAI's batch
format; it belongs to a submission, which has an answer queue of its own and one answer for each custom_id.
"""

import json
import re
import secrets
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from modelops_dagster.domain.batch import BatchRequest, error_line, parse_requests
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

URL_VARIABLE = "MODELOPS_QUEUE_URL"
USERNAME_VARIABLE = "MODELOPS_QUEUE_USERNAME"
PASSWORD_VARIABLE = "MODELOPS_QUEUE_PASSWORD"  # noqa: S105 - the name of a variable
MAX_ATTEMPTS = 3
LEASE_S = 30.0  # without a sign of life, until a request is taken from who holds it; of Redis
ANSWERS_KEPT_S = 7 * 86_400
DEAD_LETTERS_KEPT = 10_000
_SUBMISSION = re.compile(r"[A-Za-z0-9_-]{1,64}")


class QueueKind(StrEnum):
    REDIS = "redis"
    RABBITMQ = "rabbitmq"


_SCHEMES = {
    "redis": (QueueKind.REDIS, 6379),
    "rediss": (QueueKind.REDIS, 6379),
    "amqp": (QueueKind.RABBITMQ, 5672),
    "amqps": (QueueKind.RABBITMQ, 5671),
}


class QueueAddress(Value):
    """Where a Redis or a RabbitMQ is. Credentials are never part of it."""

    url: str = Field(description="redis://host:6379/0, rediss://…, amqp://host:5672/vhost or amqps://…")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ValueError(
                "it must be the address of a Redis or a RabbitMQ, as redis://host:6379 and amqp://host:5672 are"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                f"it holds credentials; leave them out and give {USERNAME_VARIABLE} and {PASSWORD_VARIABLE} instead"
            )
        _ = parts.port  # a port that is none raises here
        if _SCHEMES[parts.scheme][0] is QueueKind.REDIS and not re.fullmatch(r"/?\d*", parts.path):
            raise ValueError(f"{parts.path} is not the number of a database, as /0 is")
        return value

    @property
    def kind(self) -> QueueKind:
        return _SCHEMES[urlsplit(self.url).scheme][0]

    @property
    def tls(self) -> bool:
        return urlsplit(self.url).scheme in ("rediss", "amqps")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _SCHEMES[parts.scheme][1]

    @property
    def database(self) -> int:
        """Of Redis; 0 where the address names none."""
        return int(urlsplit(self.url).path.strip("/") or 0)


class QueueNames(NamedTuple):
    """What the parts of an endpoint's queue are called, on Redis and on RabbitMQ alike."""

    endpoint: str

    @property
    def requests(self) -> str:
        return f"modelops:{self.endpoint}:requests"

    @property
    def dead(self) -> str:
        """Requests that were given up, each with the reason."""
        return f"modelops:{self.endpoint}:dead"

    def answers(self, submission: str) -> str:
        return f"modelops:{self.endpoint}:answers:{submission}"

    def answered(self, submission: str) -> str:
        """The custom_ids that have their answer; of Redis."""
        return f"modelops:{self.endpoint}:answered:{submission}"


class DeadLetter(Value):
    """A request that was given up."""

    submission: str
    custom_id: str | None = Field(description="None: it could not be read")
    reason: str
    request: str = Field(description="the message as it was")


class QueueState(Value):
    """What is in an endpoint's queue."""

    requests: int = Field(ge=0, description="that wait; on Redis with those that are being answered")
    dead_letters: tuple[DeadLetter, ...] = Field(description="oldest first")


def new_submission() -> str:
    """The id of a submission: under it, its answers are found."""
    return f"sub-{secrets.token_hex(12)}"


def checked_submission(text: str) -> str:
    """A submission's id, seen to be one: it becomes part of a key.

    Raises:
        InvalidSpec: it is none.
    """
    if not _SUBMISSION.fullmatch(text):
        raise InvalidSpec(
            f"{text!r} is not the id of a submission: use letters, digits, '-' and '_', at most 64.",
            field="submission",
        )
    return text


def parse_queued(text: str, model: str) -> BatchRequest:
    """The request of a message, asking for `model`, whatever its author called it.

    Raises:
        InvalidSpec: it does not hold.
    """
    return next(parse_requests([text], model))


def custom_id_of(text: str) -> str | None:
    """The custom_id of a message that may hold anything; None where no answer can be addressed."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    custom_id = found.get("custom_id") if isinstance(found, dict) else None
    return custom_id if isinstance(custom_id, str) and 0 < len(custom_id) <= 512 else None


def refusal_line(custom_id: str, code: str, message: str) -> str:
    """The answer line of a request that gets no other."""
    addressed = BatchRequest(custom_id=custom_id, url="", body={})
    return error_line(addressed, answer_id=new_answer_id(), code=code, message=message)


def dead_letter(text: str, submission: str, reason: str) -> DeadLetter:
    """A dead letter of a message that may hold anything."""
    return DeadLetter(submission=submission, custom_id=custom_id_of(text), reason=reason, request=text)


def new_answer_id() -> str:
    """The id of an answer line, as a batch's have one."""
    return f"batch_req-{secrets.token_hex(12)}"
