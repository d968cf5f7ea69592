"""Addresses of queues, and what travels through them."""

import json

import pytest
from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.queues import (
    QueueAddress,
    QueueKind,
    QueueNames,
    checked_submission,
    custom_id_of,
    new_submission,
    parse_queued,
    refusal_line,
)


@pytest.mark.parametrize(
    ("url", "kind", "host", "port", "tls", "database"),
    [
        ("redis://redis.queue.svc", QueueKind.REDIS, "redis.queue.svc", 6379, False, 0),
        ("rediss://10.0.0.1:7000/3", QueueKind.REDIS, "10.0.0.1", 7000, True, 3),
    ],
)
def test_address_of_redis(url: str, kind: QueueKind, host: str, port: int, tls: bool, database: int):
    address = QueueAddress(url=url)
    seen = (address.kind, address.host, address.port, address.tls, address.database)
    assert seen == (kind, host, port, tls, database)


def test_address_of_rabbitmq():
    plain, safe = QueueAddress(url="amqp://rabbit/models"), QueueAddress(url="amqps://rabbit")
    assert (plain.kind, plain.port, plain.tls) == (QueueKind.RABBITMQ, 5672, False)
    assert (safe.kind, safe.port, safe.tls) == (QueueKind.RABBITMQ, 5671, True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://redis:6379", "must be the address of a Redis or a RabbitMQ"),
        ("redis://", "must be the address"),
        ("redis://:pass@redis:6379", "holds credentials"),
        ("amqp://app@rabbit", "holds credentials"),
        ("redis://redis/models", "not the number of a database"),
        ("redis://redis:70000", "Port out of range"),
    ],
)
def test_address_that_does_not_hold(url: str, said: str):
    with pytest.raises(ValidationError, match=said):
        QueueAddress(url=url)


def test_names_of_two_endpoints_never_meet():
    names = [
        (q.requests, q.dead, q.answers("s"), q.answered("s")) for q in (QueueNames("Nightly"), QueueNames("nightly"))
    ]
    assert len({name for some in names for name in some}) == 8


def test_submission_is_part_of_a_key_and_seen_to_be_one():
    made = new_submission()
    assert checked_submission(made) == made
    for odd in ("", "a:b", "a" * 65, "a\nb"):
        with pytest.raises(InvalidSpec, match="is not the id of a submission"):
            checked_submission(odd)


def test_request_asks_for_the_model_that_is_served():
    text = json.dumps({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x"}})
    assert parse_queued(text, "org/name@abc").body["model"] == "org/name@abc"
    with pytest.raises(InvalidSpec, match="url"):
        parse_queued(text.replace("/v1/completions", "/metrics"), "m")


@pytest.mark.parametrize(
    ("text", "custom_id"),
    [
        ('{"custom_id": "a", "url": 3}', "a"),
        ('{"custom_id": 3}', None),
        ('{"custom_id": ""}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_what_an_unreadable_message_is_called(text: str, custom_id: str | None):
    assert custom_id_of(text) == custom_id


def test_refusal_has_the_shape_of_an_answer():
    line = json.loads(refusal_line("a", "no_answer", "It was hard."))
    assert (line["custom_id"], line["response"]) == ("a", None)
    assert line["error"] == {"code": "no_answer", "message": "It was hard."}
